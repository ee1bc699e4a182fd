"""The baseline without an image: age, sex, grade and whatever else the data set's table tells of a subject."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdae.errors import ConfigError, DataError
from mdae.tasks.case import Case
from mdae.tasks.record import MISSING, LabelRule

CLINICAL = "clinical"
SAME = {"sex": ("gender",), "gender": ("sex",)}
MOST = 20  # words of a column


def is_clinical(spec: str) -> bool:
    """Whether it reads clinical:COLUMN,COLUMN."""
    return spec.partition(":")[0] == CLINICAL


def columns_of(spec: str) -> tuple[str, ...]:
    """The columns that clinical:COLUMN,COLUMN names; raises `ConfigError` for none."""
    names = tuple(name.strip() for name in spec.partition(":")[2].split(",") if name.strip())
    if not names:
        raise ConfigError(f"{CLINICAL} without columns", mend=f"write --encoder {CLINICAL}:age,sex, say")
    return names


def clinical_features(
    cases: Sequence[Case], names: Sequence[str], label: LabelRule | None, where: Path
) -> np.ndarray:
    """What tables say of subjects, as numbers (N, F).

    A number stands as it is, words are a column each that is 1 or 0. What a subject lacks is the median of the others
    with a column that says so, from which a linear model reads its own value.

    Args:
        cases: N of them.
        names: of columns: as the table has them, or one of their words ("age" for "Age at MRI").
        label: what is to be told, whose columns are refused.
        where: the data, for errors.

    Raises:
        DataError: no such column, or one of too many words.
        ConfigError: the label itself.
    """
    have = list(dict.fromkeys(column for case in cases for column in case.row))
    parts = []
    for name in names:
        column = _column(name, have, where)
        if label is not None and column in (label.column, label.event):
            raise ConfigError(f"{column!r} is what is to be told", where=where, mend="name other columns")
        parts.append(_encoded([case.row.get(column, "").strip() for case in cases], column, where))
    return np.concatenate(parts, axis=1)


def _column(name: str, have: Sequence[str], where: Path) -> str:
    """The column of that name, else the only one that has it among its words."""
    for wanted in (name, *SAME.get(name.casefold(), ())):
        exact = [column for column in have if column.casefold() == wanted.casefold()]
        found = exact or [column for column in have if wanted.casefold() in _words(column)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{name!r} may be {' or '.join(found)}", where=where, mend="name the whole column"
            )
    raise DataError(f"no column {name!r}; it has {', '.join(have)}", where=where, mend="name one of these")


def _words(column: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", column.casefold())


def _encoded(cells: Sequence[str], column: str, where: Path) -> np.ndarray:
    """A column as numbers (N, K)."""
    known = np.array([cell.casefold() not in MISSING for cell in cells])
    if not known.any():
        raise DataError(f"column {column!r} says nothing of anybody", where=where, mend="name another")
    parts = [] if known.all() else [~known]
    try:
        numbers = np.array(
            [float(cell) if there else np.nan for cell, there in zip(cells, known, strict=True)]
        )
        numbers[~np.isfinite(numbers)] = np.nan
        parts.append(np.where(np.isfinite(numbers), numbers, np.nanmedian(numbers)))
    except ValueError:
        words = sorted({cell for cell, there in zip(cells, known, strict=True) if there})
        if len(words) > MOST:
            what = f"column {column!r} holds {len(words)} words, and {MOST} are taken"
            raise DataError(what, where=where, mend="name another") from None
        parts += [np.array([cell == word for cell in cells]) for word in words]
    return np.stack(parts, axis=1).astype(np.float64)
