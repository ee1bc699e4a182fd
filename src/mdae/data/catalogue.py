"""Scans and whose they are, and who is held out."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdae.errors import DataError
from mdae.seeding import numpy_generator

GRID_OF = "T1w"  # is the finest as a rule
MAX_NAME = 200  # characters of a `scan_id`: file systems take 255 bytes with what is put around it


@dataclass(frozen=True)
class ScanEntry:
    """One scan of a source.

    Attributes:
        scan_id: unique within the source and safe as a file name.
        subject, session, contrast: from its name and folders; "" where they do not say.
        path: the file.
        anatomy_mask: a mask on its grid of what is head or brain, if there is one.
        anonymisation_mask: a mask on its grid of voxels that were defaced, if there is one.
        quality: a score of its quality, lower is better; None where there is none.
        slices: all files of a DICOM series, of which `path` is the first; empty for scans in one file.
        told_by: what told the subject, in words.
        origin: the source that `prepare` was given, which it came from.
        refuse_labels: refuse it if its voxels are those of a label map.
        together: the scans of its session, itself among them, of which the first that is fit gives all of them its
            grid; none for a grid of its own.
    """

    scan_id: str
    subject: str
    session: str
    contrast: str
    path: Path
    anatomy_mask: Path | None = None
    anonymisation_mask: Path | None = None
    quality: float | None = None
    slices: tuple[Path, ...] = ()
    told_by: str = ""
    origin: str = ""
    refuse_labels: bool = False
    together: tuple[ScanEntry, ...] = ()

    def stamp(self) -> tuple[int, int]:
        """Bytes and time of the last change (ns), which tell whether a scan is as it was; raises `OSError`."""
        states = [path.stat() for path in self.slices or (self.path,)]
        return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def sessions_together(entries: Sequence[ScanEntry], contrasts: Sequence[str] = ()) -> list[ScanEntry]:
    """The entries, in their order, each told which scans of its session it shares a grid with.

    Args:
        entries: of one source.
        contrasts: in the order in which they are asked for a grid; if left out T1w first, then by name.
    """
    sessions: dict[tuple[str, str], list[ScanEntry]] = {}
    for entry in entries:
        sessions.setdefault((entry.subject, entry.session), []).append(entry)
    order = {name: place for place, name in enumerate(contrasts or (GRID_OF,))}
    shared = {
        key: tuple(sorted(own, key=lambda e: (order.get(e.contrast, len(order)), e.contrast, e.scan_id)))
        for key, own in sessions.items()
    }
    return [
        replace(entry, together=shared[entry.subject, entry.session])
        if len(shared[entry.subject, entry.session]) > 1
        else entry
        for entry in entries
    ]


def unique(entries: list[ScanEntry], source: Path) -> list[ScanEntry]:
    """Entries sorted by name; those whose names collide get a hash of their path below the source.

    A file system may not tell capitals apart, hence neither does this.
    """
    counts = Counter(entry.scan_id.casefold() for entry in entries)
    apart = [
        entry
        if counts[entry.scan_id.casefold()] == 1
        else replace(entry, scan_id=f"{entry.scan_id}-{_hash(os.path.relpath(entry.path, source))}")
        for entry in entries
    ]
    return sorted(apart, key=lambda entry: entry.scan_id)


def _hash(path: str) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=5).hexdigest()


def safe_name(name: str) -> str:
    """A name as a file name that any file system takes, and shows."""
    return re.sub(r"^\.|[^A-Za-z0-9._+-]", "-", name)[:MAX_NAME]


def optional_path(root: Path, name: str | None) -> Path | None:
    """A path of a table's cell, or None where it is empty."""
    return root / name if name else None


def quality_score(text: str, table: Path) -> float | None:
    """A number of a table's cell, or None where it is empty; raises `DataError` for anything else."""
    try:
        return float(text) if text else None
    except ValueError as error:
        raise DataError(f"a quality score of {text!r}", where=table, mend="give numbers") from error


def split_by_subject(subjects: Collection[str], *, fraction: float, seed: int) -> frozenset[str]:
    """The held-out subjects: that share of them, at least one if there are two, drawn by the seed.

    Depends on the set of subjects and the seed alone, never on their order or their number of scans.
    """
    names = sorted(set(subjects))
    if fraction <= 0 or len(names) < 2:
        return frozenset()
    number = min(max(1, round(fraction * len(names))), len(names) - 1)
    order = numpy_generator(seed, "split").permutation(len(names))
    return frozenset(names[index] for index in order[:number])
