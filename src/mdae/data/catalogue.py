"""Scans and whose they are: what a folder's names tell, and who is held out."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mdae.data.io import is_scan, scan_stem
from mdae.data.set_aside import SetAside
from mdae.errors import DataError
from mdae.seeding import numpy_generator

SKIPPED_FOLDERS = ("derivatives", "sourcedata", "code", "stimuli")
NO_SCAN = re.compile(
    r"(^|[_-])(mask|dseg|seg|probseg|label|labels|lesion|brainmask)$|[_-]label-", re.IGNORECASE
)
MAX_NAME = 200  # characters of a `scan_id`: file systems take 255 bytes with what is put around it
ENTITY = re.compile(r"(?:^|_)(sub|ses|ce)-([A-Za-z0-9]+)")


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

    def stamp(self) -> tuple[int, int]:
        """Bytes and time of the last change (ns), which tell whether a scan is as it was; raises `OSError`."""
        states = [path.stat() for path in self.slices or (self.path,)]
        return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def list_folder(source: Path) -> tuple[list[ScanEntry], list[SetAside], list[Path]]:
    """The scans of a BIDS tree, of a folder of scans, or a single file; what is left out; and the other files.

    - BIDS names give subject, session and contrast (the suffix; `ce-gd` is added to it: `T1w-gd`). In a folder of
      several BIDS trees the tree is part of the subject (`ds1/01`): sub-01 of another tree is another person.
    - In other folders a file directly in the source is a subject of its own; in a subfolder, the first folder is the
      subject and the rest of the file's name the contrast.

    Derivatives, masks, segmentations and hidden files are left out.
    """
    if source.is_file():
        return [_entry(source, source.parent)], [], []
    left_out: list[SetAside] = []
    scans, others = [], []
    for path in _files(source, left_out):
        if not is_scan(path):
            others.append(path)
        elif NO_SCAN.search(scan_stem(path)):
            left_out.append(SetAside(str(path), "a mask or segmentation by its name"))
        else:
            scans.append(_entry(path, source))
    return scans, left_out, others


def _files(source: Path, left_out: list[SetAside]) -> Iterator[Path]:
    """Files at any depth; links to folders are followed, loops are not."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        skipped = [name for name in subfolders if name in SKIPPED_FOLDERS]
        left_out += [SetAside(str(Path(folder) / name), f"{name} of a BIDS tree") for name in sorted(skipped)]
        subfolders[:] = sorted(d for d in subfolders if d not in skipped and not d.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _entry(path: Path, source: Path) -> ScanEntry:
    stem, folders = scan_stem(path), path.relative_to(source).parts[:-1]
    entities = dict(ENTITY.findall(stem))
    if "sub" in entities:
        contrast = stem.rsplit("_", 1)[-1] + (f"-{entities['ce']}" if "ce" in entities else "")
        depth = next((depth for depth, name in enumerate(folders) if name.startswith("sub-")), 0)
        name, subject = "__".join([*folders[:depth], stem]), "/".join([*folders[:depth], entities["sub"]])
        return ScanEntry(safe_name(name), subject, entities.get("ses", ""), contrast, path)
    if folders:
        contrast = stem.removeprefix(folders[-1]).strip("_-. ") or stem
        return ScanEntry(safe_name("__".join([*folders, stem])), folders[0], "", contrast, path)
    return ScanEntry(safe_name(stem), stem, "", "", path)


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
