"""What a column of labels asks for: to tell two classes, several, or a number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mdae.errors import DataError
from mdae.evaluation.probing.estimators import LINEAR, RIDGE, Protocol
from mdae.evaluation.probing.multiclass import multiclass

Kind = Literal["auto", "classification", "regression"]
MANY = 10  # different whole numbers, from which a label is a number rather than a class
MOST = 20  # classes


@dataclass(frozen=True)
class Target:
    """Labels for a protocol.

    Attributes:
        values: (N,), 0 to K - 1 of K classes, or numbers.
        classes: their names in order; of two, the later one is the positive. Empty for a number.
    """

    values: np.ndarray
    classes: tuple[str, ...]

    @property
    def protocol(self) -> Protocol:
        """The linear model that it asks for."""
        return linear_protocol(len(self.classes)) if self.classes else RIDGE


def linear_protocol(num_classes: int) -> Protocol:
    """The linear model that tells two classes, or several."""
    return LINEAR if num_classes == 2 else multiclass(num_classes)


def read_target(
    values: pd.Series, label: str, where: Path, *, kind: Kind = "auto", positive: str = ""
) -> Target:
    """Labels as a target.

    Args:
        values: a label a row, none of them missing.
        label, where: its column and its file, for what is said.
        kind: `auto` takes words, and at most `MANY` different whole numbers, for classes.
        positive: the class that all others are told from; 1, 1.0 and 01 are the same.

    Raises:
        DataError: one value alone, too many classes, a word where a number is wanted, or nobody is positive.
    """
    numeric = pd.api.types.is_numeric_dtype(values)
    names = _in_order(values)
    if positive:
        return _against_rest(values, names, label, where, positive)
    if kind == "regression" or (kind == "auto" and numeric and _is_number(values)):
        if not numeric:
            word = next(name for name in names if not _is_numeral(name))
            raise DataError(
                f"label {label!r} holds {word!r}, which is no number", where=where, mend="leave out --kind"
            )
        if len(names) < 2:
            raise DataError(
                f"label {label!r} has one value ({names[0]})", where=where, mend="choose another column"
            )
        return Target(values.to_numpy(dtype=np.float64), ())
    if not 2 <= len(names) <= MOST:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(
            f"label {label!r} has {len(names)} values ({shown}); classes are 2 to {MOST}",
            where=where,
            mend="choose another column, or tell one value from all others with --positive",
        )
    places = {name: place for place, name in enumerate(names)}
    return Target(values.map(shown_value).map(places).to_numpy(dtype=np.int64), tuple(names))


def shown_value(value: object) -> str:
    """A label as a person writes it: 1 rather than 1.0."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _in_order(values: pd.Series) -> list[str]:
    """The different values: numbers by size, words by the alphabet."""
    different = list(values.unique())
    different.sort(key=None if pd.api.types.is_numeric_dtype(values) else str)
    return [shown_value(value) for value in map(_python, different)]


def _python(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _is_number(values: pd.Series) -> bool:
    different = values.unique()
    whole = bool(np.equal(np.mod(different.astype(float), 1), 0).all())
    return len(different) > (MANY if whole else 2)


def _is_numeral(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False


def _plain(name: str) -> str:
    return f"{float(name):g}" if _is_numeral(name) else name.strip()


def _against_rest(values: pd.Series, names: list[str], label: str, where: Path, positive: str) -> Target:
    """One class against all others."""
    found = next((name for name in names if _plain(name) == _plain(positive)), None)
    if found is None or len(names) < 2:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(
            f"nobody's {label!r} is {positive!r}; it holds {shown}"
            if found is None
            else f"everybody's {label!r} is {positive!r}",
            where=where,
            mend="give --positive one of its values",
        )
    rest = [name for name in names if name != found]
    other = rest[0] if len(rest) == 1 else f"not {found}"
    return Target((values.map(shown_value) == found).to_numpy(dtype=np.int64), (other, found))
