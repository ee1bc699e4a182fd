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
        scans: by the data set's own name of the modality.
        row: what the data set's table says of the subject, as text.
        mask: its segmentation, if there is one.
        contradicted: columns in which the subject's rows of the table say different things; empty in `row`.
    """

    subject: str
    scans: dict[str, ScanEntry] = field(default_factory=dict)
    row: dict[str, str] = field(default_factory=dict)
    mask: Path | None = None
    contradicted: frozenset[str] = frozenset()


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


def scan_of(subject: str, modality: str, path: Path, slices: tuple[Path, ...] = ()) -> ScanEntry:
    return ScanEntry(safe_name(f"{subject}__{modality}"), subject, "", modality, path, slices=slices)


def files_of(folder: Path, subject: str, names: dict[str, str]) -> dict[str, ScanEntry]:
    """The scans of a folder, by modality, whose names are known; those that are not there are left out."""
    return {
        modality: scan_of(subject, modality, folder / name)
        for modality, name in names.items()
        if (folder / name).is_file()
    }


def table_of(root: Path, pattern: str, columns: Iterable[str]) -> pd.DataFrame:
    """The newest table of a pattern in a folder, as text, with the columns that are needed."""
    from mdae.data.tables import read_text_table  # here: listing tasks needs no table

    found = sorted(root.glob(pattern))
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8])
        raise DataError(
            f"no {pattern} there; it holds {there}", where=root, mend="download the table as well"
        )
    first, *others = columns
    table = read_text_table(found[-1], first, words=True)
    if missing := [name for name in others if name not in table.columns]:
        have = ", ".join(map(str, table.columns))
        raise DataError(
            f"no column {missing[0]!r}; it has {have}",
            where=found[-1],
            mend="use the version named in the task",
        )
    return table
