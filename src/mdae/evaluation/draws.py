"""Nested draws of labelled subjects: of which so many are learned from, the same for every encoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import classes_of
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
    rows: np.ndarray, subjects: np.ndarray, sizes: Sequence[str], draws: int, seed: int
) -> Iterator[TrainingDraw]:
    """The draws of every wanted size; all subjects are drawn once.

    Args:
        rows, subjects, seed: as in `training_draw`.
        sizes: numbers of subjects, or "all".
        draws: of each size.

    Raises:
        DataError: more subjects are wanted than there are.
    """
    for size in dict.fromkeys(sizes):
        for draw in range(1 if size == ALL else draws):
            yield training_draw(rows, subjects, size, draw, seed)


def training_draw(
    rows: np.ndarray,
    subjects: np.ndarray,
    size: str,
    draw: int,
    seed: int,
    *,
    groups: np.ndarray | None = None,
) -> TrainingDraw:
    """One draw.

    A subject's place in a draw follows from its name, so that encoders are compared on the same draws, also where one
    of them cannot read somebody.

    Args:
        rows: numbers of the cases that may be learned from.
        subjects: (N,) names of all cases; those of one subject are drawn together.
        size: number of subjects, or "all".
        draw: which; within one, fewer are among more.
        seed: of the draws.
        groups: (N,) numbers of the classes of all cases: the first of a draw are one of each, and the shares of the
            rest are those of all. A subject with cases of several is in the highest one.

    Raises:
        DataError: more subjects are wanted than there are.
    """
    names = sorted(set(subjects[rows].tolist()))
    number = len(names) if size == ALL else int(size)
    if number > len(names):
        raise DataError(
            f"{number} subjects to learn from are wanted, and there are {len(names)}",
            mend=f"give --train-sizes up to {len(names)}, or {ALL}",
        )
    order = _shuffled(names, seed, draw)
    if groups is not None:
        found, _, highest = classes_of(subjects[rows], groups[rows])
        order = _mixed(order, dict(zip(found.tolist(), highest.tolist(), strict=True)))
    chosen = set(order[:number])
    own = np.array([row for row in rows if subjects[row] in chosen], dtype=int)
    return TrainingDraw(size, number, draw, own)


def _mixed(order: Sequence[str], group: Mapping[str, int]) -> list[str]:
    """The same order within each group; one of each first, then as many as are its share of all."""
    members = [[name for name in order if group[name] == own] for own in sorted(set(group.values()))]
    places = {name: (rank > 0, (rank + 0.5) / len(own)) for own in members for rank, name in enumerate(own)}
    return sorted(order, key=places.__getitem__)


def _shuffled(names: Sequence[str], seed: int, draw: int) -> list[str]:
    return sorted(names, key=lambda name: key(seed, "draw", draw, zlib.crc32(name.encode())))
