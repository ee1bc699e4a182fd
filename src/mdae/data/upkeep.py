"""Keeping a store true to its source: what is there already, what was renamed, what is a copy, and what is gone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdae.data.catalogue import ScanEntry
from mdae.data.label_maps import REASON as LABEL_MAP
from mdae.data.set_aside import SetAside
from mdae.data.sources import WIDEN, Listing
from mdae.data.store import Store, StoredScan
from mdae.text import counted, printable

logger = logging.getLogger(__name__)

COPY = "the same voxels as "


@dataclass
class ToDo:
    """What there is to do for a source.

    Attributes:
        wanted: scans that are new or changed.
        aside: those that stay set aside without another look.
        renamed: those that are there, of another subject, session, contrast or path than the store says.
    """

    wanted: list[ScanEntry] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    renamed: list[StoredScan] = field(default_factory=list)


def to_do(entries: Collection[ScanEntry], store: Store, remembered: dict[str, SetAside]) -> ToDo:
    """Compare a source with a store.

    Args:
        entries: the scans of the source.
        store: what was prepared before.
        remembered: by path what was set aside before, of files that have not changed.
    """
    known = {scan.scan_id: scan for scan in store.scans}
    by_path = {scan.source: scan for scan in store.scans}
    todo, stale = ToDo(), _stale(entries, by_path, remembered)
    for entry in entries:
        path = printable(entry.path)
        stored = by_path.get(path) or known.get(entry.scan_id)
        row = _still(remembered.get(path))
        if clash := _clash(entry, stored):
            todo.aside.append(clash)
        elif stored is not None and _unchanged(entry, stored) and entry.scan_id not in stale:
            if (named := _described(stored, entry)) != stored:
                todo.renamed.append(named)
        elif row is None or (not entry.refuse_labels and row.reason.startswith(LABEL_MAP)):
            todo.wanted.append(entry)
        else:
            todo.aside.append(row)
    return todo


def _stale(
    entries: Iterable[ScanEntry], by_path: Mapping[str, StoredScan], remembered: Mapping[str, SetAside]
) -> set[str]:
    """Stored scans that are on another grid than their session's: it was not theirs, or its scan is new or changed."""
    found = set()
    for entry in entries:
        if (stored := by_path.get(printable(entry.path))) is None:
            continue
        first = entry.together[0] if entry.together else None
        if stored.together != ("" if first is None else first.scan_id):
            found.add(entry.scan_id)
        elif first is not None and (path := printable(first.path)) not in remembered:
            there = by_path.get(path)
            if there is None or not _unchanged(first, there):
                found.add(entry.scan_id)
    return found


def _still(row: SetAside | None) -> SetAside | None:
    """A remembered row, unless it was a copy of what is gone."""
    if row is None or not row.reason.startswith(COPY):
        return row
    return row if Path(row.reason.removeprefix(COPY)).exists() else None


def _described(stored: StoredScan, entry: ScanEntry) -> StoredScan:
    """A stored scan as its source calls it now."""
    return replace(
        stored,
        subject=entry.subject,
        session=entry.session,
        contrast=entry.contrast,
        source=stored.source if entry.slices else printable(entry.path),
        origin=entry.origin,
    )


def _unchanged(entry: ScanEntry, stored: StoredScan) -> bool:
    """Whether the source of a stored scan is as it was."""
    try:
        return entry.stamp() == (stored.size, stored.modified_ns)
    except OSError:
        return False


def _clash(entry: ScanEntry, stored: StoredScan | None) -> SetAside | None:
    """Set a scan aside whose name belongs to another file, which is still there; else the two would take turns."""
    if stored is None or stored.source in map(printable, (entry.path, *entry.slices)):
        return None  # a series may have gained a first slice
    try:
        if Path(stored.source).samefile(entry.path):
            return None
    except OSError:  # the other file has gone: this one takes its place
        return None
    return SetAside(
        str(entry.path),
        f"the store has a scan of this name from {stored.source}",
        "rename one, give each source its own store, or prepare the folder above both",
    )


def drop_copies(store: Store, entries: Collection[ScanEntry]) -> list[SetAside]:
    """Take out of a store what has the voxels of another scan.

    What its source still holds stays rather than what it does not (a folder was renamed), and then the first by name.
    """
    listed = {printable(path) for entry in entries for path in (entry.path, *entry.slices)}
    groups: dict[str, list[StoredScan]] = {}
    for scan in store.scans:
        groups.setdefault(scan.content, []).append(scan)
    dropped, renamed = [], []
    for group in groups.values():
        there = {scan.scan_id: len(group) > 1 and _there(scan, listed) for scan in group}
        kept, *others = sorted(group, key=lambda scan: (not there[scan.scan_id], scan.scan_id))
        for scan in others:
            store.volume_path(scan.scan_id).unlink(missing_ok=True)
            if not there[scan.scan_id]:
                renamed.append((scan, kept))
            else:
                reason = f"{COPY}{kept.source}"
                dropped.append(SetAside(scan.source, reason, "nothing, if one copy is enough").stamped())
    if renamed:
        before, now = renamed[0]
        number = counted(len(renamed), "scan has", "scans have")
        logger.warning("%s new names, e.g. %s is %s now", number, before.source, now.source)
    return dropped


def _there(scan: StoredScan, listed: Collection[str]) -> bool:
    return scan.source in listed or Path(scan.source).exists()


def gone_from(store: Store, listing: Listing, source: str) -> list[StoredScan]:
    """The scans of a store that came from a source and are no longer taken from it, other than by a filter."""
    listed = {printable(path) for entry in listing.entries for path in (entry.path, *entry.slices)}
    listed |= {row.path for row in listing.left_out if row.mend == WIDEN}
    below = f"{source}/"
    return [
        scan
        for scan in store.scans
        if scan.source not in listed
        and (scan.origin == source or (not scan.origin and scan.source.startswith(below)))
    ]


def tell_or_prune(store: Store, gone: list[StoredScan], source: str, *, prune: bool) -> bool:
    """Remove scans that are no longer in their source, and pages that may show them, if wanted; else tell of them.

    Returns:
        Whether anything was removed.
    """
    if not gone:
        return False
    example = f"{gone[0].scan_id} ({gone[0].source})"
    if not prune:
        logger.warning(
            "%s no longer taken from %s, e.g. %s: --prune removes what is gone",
            *(counted(len(gone), "scan of the store is", "scans of the store are"), source, example),
        )
        return False
    for scan in gone:
        store.volume_path(scan.scan_id).unlink(missing_ok=True)
    for picture in (store.path / "contact_sheet").glob("page-*.png"):
        picture.unlink(missing_ok=True)
    logger.warning("removed %s no longer taken from %s, e.g. %s", counted(len(gone), "scan"), source, example)
    return True
