"""The errors a user sees: one line each that says what is wrong, where, and how to mend it."""

from __future__ import annotations

from pathlib import Path


class MDAEError(Exception):
    """An error with a what, a where and a mend.

    Args:
        what: what is wrong, as a clause without a full stop.
        where: the file, folder, option or scan it concerns.
        mend: what the user can do about it, as an imperative.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what = " ".join(what.split())
        self.where = None if where is None else str(where)
        self.mend = None if mend is None else " ".join(mend.split())
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.mend})" if self.mend else ""
        super().__init__(f"{place}{self.what}{advice}")


class ConfigError(MDAEError):
    """An option or a configuration that cannot be carried out."""


class ScanError(MDAEError):
    """A scan that cannot be read or is unfit; `prepare` sets it aside and goes on."""


class DataError(MDAEError):
    """A folder, store, table or label file that is not what it should be."""


class ModelError(MDAEError):
    """A saved model or checkpoint that is missing, damaged or from elsewhere."""


class TrainingError(MDAEError):
    """Training that cannot go on: a non-finite or exploding loss."""
