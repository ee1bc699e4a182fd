"""A folder of anything: every file in it is a scan, part of one, left out with the reason, or no image and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.dicom import list_series, may_be_dicom
from mdae.data.formats import is_scan, not_read, scan_stem, voxels_of
from mdae.data.io import MIN_SLICES
from mdae.data.label_maps import MEND, label_map_by_name
from mdae.data.names import SUBJECT_FOLDER
from mdae.data.set_aside import SetAside
from mdae.data.subjects import read_people
from mdae.data.walk import Tree, walk
from mdae.text import legible

HEADERS = "DICOM headers"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What of a source is taken.

    Attributes:
        derived: DICOM series that were computed from others as well.
        keep_labels: label maps as well.
        subject_from: what tells the subject, as `read_people`.
        min_slices: DICOM series of fewer are left out.
    """

    derived: bool = False
    keep_labels: bool = False
    subject_from: str = "auto"
    min_slices: int = MIN_SLICES


EVERYTHING = Choice()


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Attributes:
        entries: scans and DICOM series.
        left_out: what may be a scan and is not taken, with reasons.
        passed_over: how many other files there are, by suffix; hidden files and folders too.
        num_parts: how many files hold the voxels of a header that is among these.
    """

    entries: list[ScanEntry]
    left_out: list[SetAside]
    passed_over: Counter[str] = field(default_factory=Counter)
    num_parts: int = 0

    @property
    def num_looked_at(self) -> int:
        """How many files are accounted for: all that there are."""
        taken = sum(len(entry.slices) or 1 for entry in self.entries)
        left_out = sum(int(row.num_files) for row in self.left_out)
        return taken + left_out + self.passed_over.total() + self.num_parts


def list_folder(source: Path, choice: Choice = EVERYTHING) -> Found:
    """The scans and DICOM series below a folder, or a single file, which is taken whatever its name."""
    if source.is_file():
        entries, nameless = _entries([source], [], source.parent, choice.subject_from)
        return Found(entries, nameless)
    return _sorted_out(walk(source), source, choice)


def list_files(files: Sequence[Path], choice: Choice = EVERYTHING) -> Found:
    """Some scans, read together as one tree."""
    return _sorted_out(Tree(list(files)), common_folder(files), choice)


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder around some files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def _sorted_out(tree: Tree, root: Path, choice: Choice) -> Found:
    """Each file of a tree as what it is."""
    left_out, scans, others = list(tree.left_out), [], []
    for path in tree.files:
        if not is_scan(path):
            others.append(path)
        elif not choice.keep_labels and (reason := _label_map(path, root)):
            left_out.append(SetAside(str(path), reason, MEND))
        else:
            scans.append(path)
    parts = voxels_of((path for path in tree.files if is_scan(path)), others)
    others = [path for path in others if path not in parts]
    foreign = {path: row for path in others if (row := not_read(path))}
    series, unfit = list_series(
        (path for path in others if path not in foreign),
        root,
        derived=choice.derived,
        min_slices=choice.min_slices,
    )
    entries, nameless = _entries(scans, series, root, choice.subject_from)
    rest = set(others) - foreign.keys() - {path for entry in series for path in entry.slices}
    if unfit:  # those are told of
        rest = {path for path in rest if not may_be_dicom(path)}
    passed_over = tree.passed_over + Counter(path.suffix.lower() or "without a suffix" for path in rest)
    return Found(entries, [*left_out, *foreign.values(), *unfit, *nameless], passed_over, len(parts))


def _label_map(path: Path, root: Path) -> str | None:
    return label_map_by_name(path, path.absolute().relative_to(root.absolute()).parts[:-1])


def _entries(
    scans: Sequence[Path], series: Sequence[ScanEntry], root: Path, rule: str
) -> tuple[list[ScanEntry], list[SetAside]]:
    """Scans with their people, and those in which a user's rule finds nobody; without one DICOM's headers tell."""
    people = read_people([*scans, *((entry.path for entry in series) if rule != "auto" else ())], root, rule)
    entries, nameless = [], []
    for path in scans:
        person = people[path]
        if person is None:
            nameless.append(_nameless(path, rule))
            continue
        entries.append(
            ScanEntry(
                scan_id=_scan_id(path, root),
                subject=legible(person.subject),
                session=legible(person.session),
                contrast=legible(person.contrast),
                path=path,
                told_by=person.how,
            )
        )
    for entry in series:
        if entry.path not in people:
            entries.append(replace(entry, told_by=HEADERS))
        elif person := people[entry.path]:
            entries.append(replace(entry, subject=legible(person.subject), told_by=person.how))
        else:
            nameless.append(replace(_nameless(entry.path, rule), num_files=str(len(entry.slices))))
    return entries, nameless


def _nameless(path: Path, rule: str) -> SetAside:
    return SetAside(str(path), f"no subject in its path by {rule!r}", "mend --subject-from")


def _scan_id(path: Path, root: Path) -> str:
    """A name from the path alone; folders inside a BIDS subject's repeat what the file says."""
    folders, stem = path.absolute().relative_to(root.absolute()).parts[:-1], scan_stem(path)
    if SUBJECT_FOLDER.match(stem):
        depth = next((depth for depth, name in enumerate(folders) if SUBJECT_FOLDER.match(name)), 0)
        folders = folders[:depth]
    return safe_name("__".join([*folders, stem]))
