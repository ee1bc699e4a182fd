"""The scans that could not be taken: a table for people, and a memory that spares the next run reading them again."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from mdae.files import atomic_write
from mdae.text import printable

TABLE = "set_aside.csv"
NOT_LOOKED = "not looked into: "  # begins the reasons of folders that are left out whole
NO_SCAN = "a participant without a scan"


@dataclass(frozen=True)
class SetAside:
    """A scan that is not taken, why, and what to do about it.

    Attributes:
        size, modified_ns: of the file when it was looked at; "" if it is to be looked at again.
        num_files: how many files it stands for: a series has many, a folder that is left out whole too.
        source: what `prepare` was given when it was left out.
    """

    path: str
    reason: str
    mend: str = ""
    size: str = ""
    modified_ns: str = ""
    num_files: str = "1"
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("path", "reason", "source"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def stamped(self) -> SetAside:
        """The same, remembered until the file changes."""
        return replace(self, **_stamp(self.path))

    @property
    def unseen(self) -> bool:
        """Whether it stands for what was not looked at: a folder that is left out whole, or somebody without a scan."""
        return self.reason.startswith(NOT_LOOKED) or self.reason == NO_SCAN

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
    with atomic_write(store / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(SetAside))
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.path))


def read_table(store: Path) -> list[SetAside]:
    """All rows; none if there is no table that can be read."""
    try:
        with (store / TABLE).open(newline="", encoding="utf-8") as file:
            return [SetAside(**row) for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError, csv.Error):
        return []


def read_set_aside(store: Path) -> dict[str, SetAside]:
    """The rows by path whose files are as they were."""
    return {row.path: row for row in read_table(store) if row.stands}


def by_reason(rows: Iterable[SetAside]) -> Iterator[str]:
    """Lines for people: how many share a reason, its mend, and one of them."""
    first: dict[str, SetAside] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        first.setdefault(row.reason, row)
        counts[row.reason] += 1
    for reason, number in counts.most_common():
        row = first[reason]
        yield f"  {number} x {reason}{f' ({row.mend})' if row.mend else ''}, e.g. {row.path}"
