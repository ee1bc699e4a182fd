"""A manifest: a table with a scan a row, by its path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdae.data.catalogue import ScanEntry, optional_path, quality_score, safe_name
from mdae.data.folder import Choice, Found
from mdae.data.formats import scan_stem
from mdae.data.label_maps import MEND, label_map_by_name
from mdae.data.set_aside import SetAside
from mdae.data.subjects import read_people
from mdae.data.walk import no_file
from mdae.text import legible

ROWS = "the manifest"


def list_manifest(path: Path, choice: Choice) -> Found:
    """The scans of a table with `path` (absolute, or from the table's folder) and what else a row may tell.

    Columns: `subject`, `session`, `contrast`, `anatomy_mask`, `anonymisation_mask`, `quality`. Subjects that it does
    not name are read from the paths.
    """
    from mdae.data.tables import read_text_table  # here: most commands need no table

    found = Found([], [])
    rows: dict[Path, ScanEntry] = {}
    for row in read_text_table(path, "path").to_dict("records"):
        entry = _entry(row, path)
        if entry.path in rows:
            _twice(entry, rows, found)
        elif not entry.path.is_file():
            found.left_out.append(not_there(entry.path))
        elif not choice.keep_labels and (reason := label_map_by_name(entry.path, ())):
            found.left_out.append(SetAside(str(entry.path), reason, MEND))
        else:
            rows[entry.path] = replace(entry, keep_labels=choice.keep_labels)
    entries, nameless = _with_people(list(rows.values()), choice.subject_from)
    return Found(entries, found.left_out + nameless)


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


def _twice(entry: ScanEntry, rows: dict[Path, ScanEntry], found: Found) -> None:
    """A file in two rows counts once, and not at all if they say it is of two people."""
    before = rows[entry.path]
    if before.subject == entry.subject:
        row = SetAside(str(entry.path), "listed twice", "nothing, it counts once", num_files="0")
    else:
        reason = f"listed as of {before.subject or 'nobody'} and of {entry.subject or 'nobody'}"
        row = SetAside(str(entry.path), reason, "keep the right row")
        del rows[entry.path]
    found.left_out.append(row)


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
