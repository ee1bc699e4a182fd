"""Nested draws of labelled subjects: of which so many are learned from, the same for every encoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdae.errors import DataError
from mdae.seeding import key

ALL = "all"


@dataclass(frozen=True)
class TrainingDraw:
    """Some of the subjects to learn from.

    Attributes:
        wanted: how many were asked for, a number or "all".
        size: how many they are.
        draw: which draw; within one, fewer are among more.
        rows: (n,) their numbers among the cohort's cases.
    """

    wanted: str
    size: int
    draw: int
    rows: np.ndarray


def training_draws(
    rows: np.ndarray,
    subjects: np.ndarray,
    sizes: Sequence[str],
    draws: int,
    seed: int,
    *,
    groups: np.ndarray | None = None,
) -> Iterator[TrainingDraw]:
    """The draws of every wanted size; all subjects are drawn once.

    A subject's place in a draw follows from its name, so that encoders are compared on the same draws, also where one
    of them cannot read somebody.

    Args:
        rows: numbers of the cases that may be learned from.
        subjects: (N,) names of all cases; those of one subject are drawn together.
        sizes: numbers of subjects, or "all".
        draws: of each size.
        seed: of the draws.
        groups: (N,) numbers of the classes of all cases: the first of a draw are one of each, and the shares of the
            rest are those of all. A subject with cases of several is in the highest one.

    Raises:
        DataError: more subjects are wanted than there are.
    """
    names = sorted(set(subjects[rows].tolist()))
    if more := [int(size) for size in sizes if size != ALL and int(size) > len(names)]:
        raise DataError(
            f"{more[0]} subjects to learn from are wanted, and there are {len(names)}",
            mend=f"give --train-sizes up to {len(names)}, or {ALL}",
        )
    highest = None if groups is None else _highest(rows, subjects, groups)
    for size in dict.fromkeys(sizes):
        number = len(names) if size == ALL else int(size)
        for draw in range(1 if size == ALL else draws):
            order = _shuffled(names, seed, draw)
            chosen = set((order if highest is None else _mixed(order, highest))[:number])
            own = np.array([row for row in rows if subjects[row] in chosen], dtype=int)
            yield TrainingDraw(size, number, draw, own)


def _highest(rows: np.ndarray, subjects: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        name = str(subjects[row])
        found[name] = max(found.get(name, 0), int(groups[row]))
    return found


def _mixed(order: Sequence[str], group: Mapping[str, int]) -> list[str]:
    """The same order within each group; one of each first, then as many as are its share of all."""
    members = [[name for name in order if group[name] == own] for own in sorted(set(group.values()))]
    places = {name: (rank > 0, (rank + 0.5) / len(own)) for own in members for rank, name in enumerate(own)}
    return sorted(order, key=places.__getitem__)


def _shuffled(names: Sequence[str], seed: int, draw: int) -> list[str]:
    return sorted(names, key=lambda name: key(seed, "draw", draw, zlib.crc32(name.encode())))
