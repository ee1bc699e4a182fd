"""The errors a user sees: one line each that says what is wrong, where, and how to mend it."""

from __future__ import annotations

from pathlib import Path

from mdae.text import printable


class MDAEError(Exception):
    """An error with a what, a where and a mend.

    Args:
        what: what is wrong, as a clause without a full stop.
        where: the file, folder, option or scan it concerns.
        mend: what the user can do about it, as an imperative.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what = printable(" ".join(what.split()))
        self.where = None if where is None else printable(str(where))
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


class EmptyTableError(DataError):
    """A table of a header alone."""


class ModelError(MDAEError):
    """A saved model or checkpoint that is missing, damaged or from elsewhere."""


class TrainingError(MDAEError):
    """Training that cannot go on: a non-finite or exploding loss."""


class PartnerError(TrainingError):
    """A process that a run needs has ended, another one of its ranks or a reader: no fault of the run's own."""


def to_dict(error: MDAEError) -> dict[str, str | None]:
    """An error as plain values, for another process."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend}


def from_dict(values: dict[str, str | None]) -> MDAEError:
    """The inverse of `to_dict`; of a kind unknown here it is an `MDAEError`."""
    known = (ConfigError, ScanError, DataError, ModelError, TrainingError, PartnerError)
    kinds = {kind.__name__: kind for kind in known}
    kind = kinds.get(values["kind"] or "", MDAEError)
    return kind(values["what"] or "", where=values["where"], mend=values["mend"])
