"""The scans that could not be taken: a table for people, and a memory that spares the next run reading them again."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from mdae.files import atomic_write

TABLE = "set_aside.csv"


@dataclass(frozen=True)
class SetAside:
    """A scan that is not taken, why, and what to do about it.

    Attributes:
        size, modified_ns: of the file when it was looked at; "" if it is to be looked at again.
    """

    path: str
    reason: str
    mend: str = ""
    size: str = ""
    modified_ns: str = ""

    def stamped(self) -> SetAside:
        """The same, remembered until the file changes."""
        return replace(self, **_stamp(self.path))

    @property
    def stands(self) -> bool:
        """Whether the file is as it was when it was set aside."""
        return bool(self.size) and _stamp(self.path) == {"size": self.size, "modified_ns": self.modified_ns}


def _stamp(path: str) -> dict[str, str]:
    try:
        status = Path(path).stat()
    except OSError:
        return {"size": "", "modified_ns": ""}
    return {"size": str(status.st_size), "modified_ns": str(status.st_mtime_ns)}


def write_set_aside(store: Path, rows: Iterable[SetAside]) -> None:
    """The table of scans that were not taken; its header alone if all were."""
    with atomic_write(store / TABLE) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(SetAside))
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.path))


def read_table(store: Path) -> list[SetAside]:
    """All rows; none if there is no table that can be read."""
    try:
        with (store / TABLE).open(newline="") as file:
            return [SetAside(**row) for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError, csv.Error):
        return []


def read_set_aside(store: Path) -> dict[str, SetAside]:
    """The rows by path whose files are as they were."""
    return {row.path: row for row in read_table(store) if row.stands}
