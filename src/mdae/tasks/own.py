"""Data sets of one's own: a table of scans, or a BIDS tree with its participants."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdae.data.catalogue import ScanEntry
from mdae.data.sources import list_source
from mdae.errors import DataError
from mdae.tasks.case import Case, scan_of, table_of, with_rows
from mdae.tasks.record import MISSING
from mdae.text import counted

if TYPE_CHECKING:
    from mdae.data.name_matching import Matched

logger = logging.getLogger(__name__)


def table(root: Path) -> list[Case]:
    """A user's own table: a row a scan with `path`, `subject` and `contrast`; every other column may be a label.

    A column `mask` names a subject's segmentation. What a subject's rows contradict each other in counts as empty.
    """
    from mdae.data.columns import with_columns  # here: listing tasks needs no table
    from mdae.data.name_matching import bare
    from mdae.data.tables import read_text_table

    rows = with_columns(read_text_table(root, "path", words=True), ("subject", "contrast", "mask"))
    if missing := [name for name in ("subject", "contrast") if name not in rows.columns]:
        raise DataError(
            f"no column {missing[0]!r}", where=root, mend="name whose scan it is and of what contrast"
        )
    if nameless := int((rows["subject"] == "").sum()):
        raise DataError(f"{nameless} rows have no subject", where=root, mend="name whose scans they are")
    cases = []
    for _, own in rows.groupby(rows["subject"].map(bare).str.casefold(), sort=False):
        subject = str(own["subject"].iloc[0])
        case = with_rows(Case(subject), own.to_dict("records"))
        for contrast in dict.fromkeys(own["contrast"].map(str)):
            files = [path for path in own["path"][own["contrast"] == contrast] if path]
            if files:
                path = _sole(files, subject, f"scans of {contrast or 'no contrast'}", root)
                case.scans[contrast] = scan_of(subject, contrast, path)
        if "mask" in own.columns and (
            masks := [cell for cell in own["mask"] if cell.casefold() not in MISSING]
        ):
            case.mask = _sole(masks, subject, "masks", root)
        cases.append(case)
    return cases


def _sole(files: Iterable[str], subject: str, what: str, root: Path) -> Path:
    """The one file that a table names; of several none is taken, for nobody said which."""
    paths = list(dict.fromkeys(files))
    if len(paths) > 1:
        raise DataError(
            f"subject {subject} has {len(paths)} {what}: {', '.join(paths[:3])}",
            where=root,
            mend="keep one row of them, or call them contrasts of their own (T1w-2)",
        )
    return root.parent / paths[0]


def bids(root: Path) -> list[Case]:
    """A BIDS tree with the labels in `participants.tsv`; the first scan of each contrast."""
    from mdae.data.name_matching import match_names  # here: listing tasks needs no table

    people = table_of(root, "participants.tsv", ("participant_id",)).to_dict("records")
    entries = list_source(root).entries
    matched = match_names([row["participant_id"] for row in people], [entry.subject for entry in entries])
    rows: dict[str, list[dict[Any, str]]] = {}
    for row in people:
        if row["participant_id"] in matched.pairs:
            rows.setdefault(matched.pairs[row["participant_id"]], []).append(row)
    cases: dict[str, Case] = {}
    further = 0
    for entry in entries:
        if entry.subject in rows:
            if entry.subject not in cases:
                cases[entry.subject] = with_rows(Case(entry.subject), rows[entry.subject])
            case = cases[entry.subject]
            further += entry.contrast in case.scans
            case.scans.setdefault(entry.contrast, entry)
    _tell(root / "participants.tsv", people, matched, entries, further)
    return list(cases.values())


def _tell(
    table: Path, people: list[dict[Any, str]], matched: Matched, entries: list[ScanEntry], further: int
) -> None:
    """What of a BIDS tree is not used, and what was matched loosely, with numbers and examples."""
    for how, pairs in matched.loose.items():
        theirs, ours = pairs[0]
        number = counted(len(pairs), "subject is", "subjects are")
        logger.warning("%s: %s matched %s, e.g. %r to %r", table, number, how, theirs, ours)
    lost = [row["participant_id"] for row in people if row["participant_id"] not in matched.pairs]
    if lost:
        logger.warning("%s: %d of %d rows have no scan, e.g. %r", table, len(lost), len(people), lost[0])
    unknown = sorted({entry.subject for entry in entries} - set(matched.pairs.values()))
    if unknown:
        number = counted(len(unknown), "subject has", "subjects have")
        logger.warning("%s: %s scans and no row, e.g. %r", table, number, unknown[0])
    if further:
        logger.warning("%s: %d further scans of a contrast are not used, only the first is", table, further)
