"""A case: a subject's scans, what a table says of it, and its segmentation; and how adapters of data sets make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Case:
    """One subject of a data set.

    Attributes:
        subject: whose scans they are; never in two splits.
        scans: by the data set's own name of the contrast.
        row: what the data set's table says of the subject, as text.
        mask: its segmentation, if there is one.
        person: who that is, where subjects are cases of which several may be of one person; "" if the subject is.
        contradicted: columns in which the subject's rows of the table say different things; empty in `row`.
    """

    subject: str
    scans: dict[str, ScanEntry] = field(default_factory=dict)
    row: dict[str, str] = field(default_factory=dict)
    mask: Path | None = None
    contradicted: frozenset[str] = frozenset()
    person: str = ""

    @property
    def whose(self) -> str:
        """The person if known, else the subject."""
        return self.person or self.subject


def with_rows(case: Case, rows: Iterable[Mapping[Any, str]]) -> Case:
    """A case with what all rows of a table say of it: a cell where they agree or are blank, else the column's name
    among the contradicted."""
    said: dict[str, set[str]] = {}
    for row in rows:
        for column, cell in row.items():
            said.setdefault(str(column), set()).update({cell} - {""})
    case.row = {column: next(iter(cells)) if len(cells) == 1 else "" for column, cells in said.items()}
    case.contradicted = frozenset(column for column, cells in said.items() if len(cells) > 1)
    return case


def scan_of(subject: str, contrast: str, path: Path, slices: tuple[Path, ...] = ()) -> ScanEntry:
    return ScanEntry(safe_name(f"{subject}__{contrast}"), subject, "", contrast, path, slices=slices)


def files_of(folder: Path, subject: str, names: dict[str, str]) -> dict[str, ScanEntry]:
    """The scans of a folder, by contrast, whose names are known; those that are not there are left out."""
    found = {contrast: file_of(folder / name) for contrast, name in names.items()}
    return {contrast: scan_of(subject, contrast, path) for contrast, path in found.items() if path}


def file_of(path: Path) -> Path | None:
    """A file of that name in .nii.gz, or unpacked in .nii as some copies of a data set hold it; None if neither is."""
    unpacked = path.with_name(path.name.removesuffix(".gz"))
    return next((name for name in (path, unpacked) if name.is_file()), None)


def table_of(root: Path, pattern: str, columns: Iterable[str]) -> pd.DataFrame:
    """The newest table of a pattern, or of several (`*.csv *.xlsx`), that has the columns needed, as text."""
    from mdae.data.tables import read_text_table  # here: listing tasks needs no table

    found = sorted(path for one in pattern.split(" ") for path in root.glob(one))
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8])
        raise DataError(
            f"no {pattern} there; it holds {there}", where=root, mend="download the table as well"
        )
    first, *others = columns
    table = read_text_table(_with_columns(found, columns), first, words=True)
    if missing := [name for name in others if name not in table.columns]:
        have = ", ".join(map(str, table.columns))
        raise DataError(
            f"no column {missing[0]!r}; it has {have}",
            where=root,
            mend="use the version named in the task",
        )
    return table


def _with_columns(found: list[Path], columns: Iterable[str]) -> Path:
    """The last of some tables that has all columns; else the last, of which it is then said what it lacks."""
    from mdae.data.table_files import read_cells  # here: listing tasks needs no table

    for path in reversed(found if len(found) > 1 else []):
        try:
            if set(columns) <= set(read_cells(path).columns):
                return path
        except DataError:
            continue  # a file beside it that is no table
    return found[-1]
