"""A manifest: a table with a scan a row, by its path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdae.data.catalogue import ScanEntry, optional_path, quality_score, safe_name
from mdae.data.dicom import list_series
from mdae.data.folder import HEADERS, Choice, Found
from mdae.data.formats import is_scan, scan_stem
from mdae.data.label_maps import MEND, label_map_by_name
from mdae.data.set_aside import SetAside
from mdae.data.subjects import read_people
from mdae.data.walk import no_file, walk
from mdae.text import legible

ROWS = "the manifest"


def list_manifest(path: Path, choice: Choice) -> Found:
    """The scans of a table with `path` (absolute, or from the table's folder) and what else a row may tell.

    A path is a scan's, or of a DICOM series its folder or one of its files. Columns: `subject`, `session`, `contrast`,
    `anatomy_mask`, `anonymisation_mask`, `quality`. Subjects that the table does not name are read from the paths, of
    DICOM from its headers.
    """
    from mdae.data.columns import with_columns  # here: most commands need no table
    from mdae.data.tables import read_text_table

    found = Found([], [])
    rows: dict[Path, ScanEntry] = {}
    table = with_columns(read_text_table(path, "path"), ("subject", "session", "contrast"))
    for row in table.to_dict("records"):
        entry = _entry(row, path)
        if entry.path in rows:
            found.left_out.append(_twice(entry, rows[entry.path]))
        elif not entry.path.exists() or not (entry.path.is_file() or entry.path.is_dir()):
            found.left_out.append(not_there(entry.path))
        elif not choice.keep_labels and is_scan(entry.path) and (reason := label_map_by_name(entry.path, ())):
            found.left_out.append(SetAside(str(entry.path), reason, MEND))
        else:
            rows[entry.path] = entry
    files = [entry for entry in rows.values() if is_scan(entry.path) or entry.path.suffix == ".b2nd"]
    entries, nameless = _with_people(files, choice.subject_from)
    series = _series([entry for entry in rows.values() if entry not in files], path.parent, choice, found)
    return Found(entries + series, found.left_out + nameless)


def _series(rows: list[ScanEntry], root: Path, choice: Choice, found: Found) -> list[ScanEntry]:
    """The DICOM series of rows that name a folder or a slice, with what the rows say of them."""
    if not rows:
        return []
    folders = {entry.path if entry.path.is_dir() else entry.path.parent for entry in rows}
    files = {file for folder in folders for file in walk(folder).files if not is_scan(file)}
    listed, unfit = list_series(sorted(files), root, derived=choice.derived, min_slices=choice.min_slices)
    taken: dict[str, ScanEntry] = {}
    used = set()
    for row in rows:
        own = [entry for entry in listed if any(_names(row.path, file) for file in entry.slices)]
        reasons = [
            left for left in unfit if _names(row.path, Path(left.path)) or Path(left.path) == row.path.parent
        ]
        used.update(reasons)
        if not own and not reasons:
            reason, mend = (
                "neither a scan of a format that is read nor DICOM",
                "name a scan, or a folder of a series",
            )
            found.left_out.append(SetAside(str(row.path), reason, mend))
        for entry in own:
            if entry.scan_id in taken:
                reason = f"of a series that is listed already, of {taken[entry.scan_id].subject}"
                found.left_out.append(
                    SetAside(str(row.path), reason, "nothing, it counts once", num_files="0")
                )
            taken.setdefault(entry.scan_id, _as_listed(entry, row))
    found.left_out.extend(used)
    return list(taken.values())


def _names(path: Path, file: Path) -> bool:
    """Whether a row's path is a file, or a folder around it."""
    return path == file or path in file.parents


def _as_listed(series: ScanEntry, row: ScanEntry) -> ScanEntry:
    """A series with what its row says; its headers say the rest."""
    return replace(
        series,
        subject=row.subject or series.subject,
        session=row.session or series.session,
        contrast=row.contrast or series.contrast,
        anatomy_mask=row.anatomy_mask,
        anonymisation_mask=row.anonymisation_mask,
        quality=row.quality,
        told_by=ROWS if row.subject else HEADERS,
    )


def not_there(path: Path) -> SetAside:
    """A file that is listed and is none."""
    reason, mend = no_file(path)
    return SetAside(str(path), f"listed, but {reason}", mend, num_files="0")


def _entry(row: Mapping[Any, str], table: Path) -> ScanEntry:
    """A row's scan."""
    file = Path(os.path.normpath(table.parent / Path(row["path"].strip()).expanduser()))
    subject, session, contrast = (row.get(name, "").strip() for name in ("subject", "session", "contrast"))
    parts = [part for part in (subject, session) if part]
    return ScanEntry(
        scan_id=safe_name("__".join([*parts, scan_stem(file)])),
        subject=subject.removeprefix("sub-"),
        session=session,
        contrast=contrast,
        path=file,
        anatomy_mask=optional_path(table.parent, row.get("anatomy_mask")),
        anonymisation_mask=optional_path(table.parent, row.get("anonymisation_mask")),
        quality=quality_score(row.get("quality", ""), table),
        told_by=ROWS if subject else "",
    )


def _twice(entry: ScanEntry, before: ScanEntry) -> SetAside:
    """A file counts once, by its first row."""
    if before.subject == entry.subject:
        return SetAside(str(entry.path), "listed twice", "nothing, it counts once", num_files="0")
    reason = f"listed twice, of {before.subject or 'nobody'} and of {entry.subject or 'nobody'}: the first row counts"
    return SetAside(str(entry.path), reason, "keep the right row", num_files="0")


def _with_people(entries: list[ScanEntry], rule: str) -> tuple[list[ScanEntry], list[SetAside]]:
    """Entries whose rows name no subject get the one that their paths tell; all do by a user's rule."""
    unknown = [entry.path for entry in entries if rule != "auto" or not entry.told_by]
    if not unknown:
        return entries, []
    root = Path(os.path.commonpath([path.parent for path in unknown]))
    people = read_people(unknown, root, rule)
    told, nameless = [], []
    for entry in entries:
        if entry.path not in people:
            told.append(entry)
        elif person := people[entry.path]:
            told.append(
                replace(
                    entry,
                    subject=legible(person.subject),
                    session=entry.session or legible(person.session),
                    contrast=entry.contrast or legible(person.contrast),
                    told_by=person.how,
                )
            )
        else:
            reason = f"no subject in its path by {rule!r}"
            nameless.append(SetAside(str(entry.path), reason, "mend --subject-from"))
    return told, nameless
