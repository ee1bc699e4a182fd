"""A user's own table of whose each scan is: `--subjects TABLE`, for names that do not tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mdae.data.catalogue import ScanEntry
from mdae.data.formats import scan_stem
from mdae.data.subjects import CHANNEL
from mdae.errors import DataError
from mdae.text import counted

logger = logging.getLogger(__name__)

SCANS, SUBJECTS = ("scan", "path"), ("subject", "participant_id")


def read_subject_table(path: Path) -> dict[str, str]:
    """The subject of each scan, from a table with a column `scan` (or `path`) and `subject` (or `participant_id`).

    Raises:
        DataError: no such table or columns, or a scan of two subjects.
    """
    from mdae.data.columns import with_columns  # here: most commands need no table
    from mdae.data.tables import read_table

    table = with_columns(read_table(path), (*SCANS, "subject"))
    columns = []
    for names in (SCANS, SUBJECTS):
        name = next((name for name in names if name in table.columns), None)
        if name is None:
            have = ", ".join(map(str, table.columns))
            mend = "give columns scan and subject"
            raise DataError(f"no column {names[0]!r}; it has {have}", where=path, mend=mend)
        columns.append(name)
    found: dict[str, str] = {}
    for scan, subject in table[columns].dropna().itertuples(index=False):
        name = str(subject).strip().removeprefix("sub-")
        if found.setdefault(str(scan).strip(), name) != name:
            reason = f"scan {scan} is of {found[str(scan).strip()]} and of {name}"
            raise DataError(reason, where=path, mend="keep the right row")
    return found


def names_of(entry: ScanEntry, root: Path) -> Iterator[str]:
    """What a table may call a scan: its path, its file, its name without suffix or channel, its `scan_id`, or the
    case that a data set says it is of."""
    yield str(entry.path)
    if entry.path.is_relative_to(root):
        yield entry.path.relative_to(root).as_posix()
    stem = scan_stem(entry.path)
    yield from (entry.path.name, stem)
    if match := CHANNEL.fullmatch(stem):
        yield match[1]
    yield from (entry.scan_id, entry.subject)


def with_subjects(entries: Sequence[ScanEntry], path: Path, root: Path) -> list[ScanEntry]:
    """Entries with the subjects of a table; those that it does not name keep the one that was read, and are told of.

    Raises:
        DataError: as `read_subject_table`, or the table names none of the scans.
    """
    table = read_subject_table(path)
    joined, unnamed, used = [], [], set()
    for entry in entries:
        name = next((name for name in names_of(entry, root) if name in table), "")
        if name:
            used.add(name)
            entry = replace(entry, subject=table[name], told_by=path.name)
        else:
            unnamed.append(entry.path)
        joined.append(entry)
    if not used:
        example = f"it has {next(iter(table), '')!r}, the first scan is {next(names_of(entries[0], root))!r}"
        raise DataError(
            f"none of {counted(len(entries), 'scan')} is in it: {example}",
            where=path,
            mend="name scans as files",
        )
    if unnamed:
        logger.warning(
            "%d of %d scans are not in %s and keep the subject of their names, e.g. %s",
            *(len(unnamed), len(entries), path, unnamed[0]),
        )
    if missing := sorted(table.keys() - used):
        logger.warning("%d rows of %s are of no scan there, e.g. %s", len(missing), path, missing[0])
    return joined
