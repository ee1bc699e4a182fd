"""Piles of scans, in whatever shape they lie: each kind of source is recognised and listed, with what is left out.

| source | recognised by |
|---|---|
| OpenMind as on the Hugging Face Hub | a folder with `openneuro_metadata.csv` |
| nnssl's raw list | `pretrain_data.json`, or a folder with it |
| what nnssl has preprocessed | `pretrain_data__onemmiso.json`, or a folder with it: used in place, without a copy |
| a manifest | a .csv, .tsv or .parquet with a column `path` |
| a BIDS tree, a folder of scans and DICOM series, one scan | anything else |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdae.data import folder, nnssl_list, openmind
from mdae.data.catalogue import ScanEntry, unique
from mdae.data.folder import Choice, Found, common_folder, list_folder
from mdae.data.formats import is_scan
from mdae.data.io import MIN_SLICES
from mdae.data.label_maps import REASON as LABEL_MAP
from mdae.data.manifest import list_manifest, not_there
from mdae.data.set_aside import NO_SCAN, SetAside
from mdae.data.subject_table import with_subjects
from mdae.data.subjects import CASES, Reading, check_rule, describe
from mdae.errors import DataError, EmptyTableError
from mdae.text import counted

NNSSL_RAW, NNSSL_PREPARED = "nnssl's raw list", "preprocessed by nnssl"
TABLES = (".csv", ".tsv", ".parquet")
PARTICIPANTS = "participants.tsv"
WIDEN = "widen the filter to take it"


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        kind: what it was recognised as.
        entries: the scans, sorted by `scan_id`.
        left_out: files and rows that are not taken, with reasons.
        reading: whose the scans are, and what told it.
        passed_over: how many files beside them hold no image, by suffix; hidden ones too.
    """

    kind: str
    entries: list[ScanEntry]
    left_out: list[SetAside]
    reading: Reading
    passed_over: Counter[str]

    @property
    def num_label_maps(self) -> int:
        """How many of those left out are label maps."""
        return sum(row.reason.startswith(LABEL_MAP) for row in self.left_out)


def discover(source: Path, *, min_slices: int = MIN_SLICES) -> list[ScanEntry]:
    """The scans of a source of any kind, sorted by `scan_id`; raises as `list_source`."""
    return list_source(source, min_slices=min_slices).entries


def list_source(
    source: Path,
    *,
    contrasts: tuple[str, ...] = (),
    max_quality_score: float | None = None,
    derived: bool = False,
    min_slices: int = MIN_SLICES,
    keep_labels: bool = False,
    subject_from: str = "auto",
    subjects: Path | None = None,
    empty_ok: bool = False,
) -> Listing:
    """Recognise a source and list its scans.

    Args:
        source: a file or folder.
        contrasts: take these alone; all if empty.
        max_quality_score: leave out scans with a higher (worse) score; those without one are taken.
        derived: take DICOM series that were computed from others as well.
        min_slices: leave out DICOM series of fewer.
        keep_labels: take label maps as well.
        subject_from: what tells the subject, as `mdae.data.subjects.read_people`.
        subjects: a table with columns `scan` and `subject`, which comes before everything else.
        empty_ok: take a source without a scan for an empty one.

    Raises:
        DataError: no such source, one that cannot be read as what it claims to be, or no scan in it.
        ConfigError: a rule for subjects that is none.
    """
    source = Path(source)
    if not source.exists():
        raise DataError("no such file or folder", where=source, mend="check the path")
    check_rule(subject_from)
    choice = Choice(
        derived=derived, keep_labels=keep_labels, subject_from=subject_from, min_slices=min_slices
    )
    try:
        kind, found = _recognised(source, choice)
    except EmptyTableError:
        if not empty_ok:
            raise
        kind, found = "manifest", Found([], [])
    listing = _listing(source, kind, found, choice, contrasts, max_quality_score, subjects)
    if not listing.entries and not empty_ok:
        raise nothing(source, listing)
    return listing


def list_files(files: Sequence[Path], choice: Choice) -> Listing:
    """Some scans, read together; raises as `list_source`."""
    root = common_folder(files)
    paths = [file.absolute() for file in files]
    listing = _listing(root, "scans", folder.list_files(paths, choice), choice)
    if not listing.entries:
        raise nothing(root, listing)
    return listing


def _listing(
    source: Path,
    kind: str,
    found: Found,
    choice: Choice,
    contrasts: tuple[str, ...] = (),
    max_quality_score: float | None = None,
    subjects: Path | None = None,
) -> Listing:
    """What is taken of what was found."""
    left_out = list(found.left_out)
    taken = []
    for entry in found.entries:
        if reason := unwanted(entry, contrasts, max_quality_score):
            num_files = str(len(entry.slices) or 1)
            left_out.append(SetAside(str(entry.path), reason, WIDEN, num_files=num_files))
        else:
            taken.append(entry)
    root = source if source.is_dir() else source.parent
    if subjects is not None and taken:
        taken = with_subjects(taken, subjects, root)
    reading = describe((entry.subject, _shown(entry, root), entry.told_by) for entry in taken)
    taken = [replace(entry, refuse_labels=not choice.keep_labels) for entry in taken]
    return Listing(kind, unique(taken, root), left_out, reading, found.passed_over)


def _shown(entry: ScanEntry, root: Path) -> str:
    """An entry's path below the source."""
    return entry.path.relative_to(root).as_posix() if entry.path.is_relative_to(root) else str(entry.path)


def nothing(source: Path, listing: Listing) -> DataError:
    """That there is no scan, and what there is instead."""
    left_out, kind, passed_over = listing.left_out, listing.kind, listing.passed_over
    reasons = f"; {len(left_out)} left out, e.g. {left_out[0].path}: {left_out[0].reason}" if left_out else ""
    if passed_over:
        reasons += f"; {in_words(passed_over)}"
    return DataError(
        f"no scan to take there ({kind}{reasons})",
        where=source,
        mend="give a folder of scans, a BIDS tree, a manifest, OpenMind or nnssl's list",
    )


def in_words(passed_over: Counter[str]) -> str:
    """How many files beside the scans hold no image, and what they are."""
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in passed_over.most_common())
    return f"{counted(passed_over.total(), 'file')} without a scan ({kinds})"


def _recognised(source: Path, choice: Choice) -> tuple[str, Found]:
    """Kind, entries and left-out files of a source."""
    if table := _named(source, openmind.TABLE):
        return "OpenMind", _present(openmind.openmind_rows(table, openmind.openmind_folder(table)))
    if listed := _named(source, nnssl_list.PREPARED_LIST):
        return NNSSL_PREPARED, _present(nnssl_list.nnssl_images(listed))
    if listed := _named(source, nnssl_list.RAW_LIST):
        return NNSSL_RAW, _present(nnssl_list.nnssl_images(listed))
    if source.is_file() and source.suffix == ".json":
        return NNSSL_RAW, _present(nnssl_list.nnssl_images(source))
    if source.is_file() and source.suffix in TABLES:
        return "manifest", list_manifest(source, choice)
    if source.is_file() and not is_scan(source):
        raise DataError(
            "neither a scan nor a list of scans", where=source, mend="give a folder or a manifest"
        )
    found = list_folder(source, choice)
    return _kind(found), replace(found, left_out=[*found.left_out, *_participants(source, found)])


def _kind(found: Found) -> str:
    """What a folder is called by what it holds."""
    told = {entry.told_by for entry in found.entries if not entry.slices}
    series = sum(bool(entry.slices) for entry in found.entries)
    if not series:
        return "nnU-Net's or MSD's data set" if told == {CASES} else "folder of scans"
    return "DICOM" if series == len(found.entries) else "folder of scans and DICOM"


def _named(source: Path, name: str) -> Path | None:
    """The file of that name, if the source is it or holds it."""
    path = source if source.name == name else source / name
    return path if path.is_file() else None


def _present(entries: Iterable[ScanEntry]) -> Found:
    """Listed scans that are on disk, and the others: a download may be partial."""
    there, missing = [], []
    for entry in entries:
        if entry.path.is_file():
            there.append(replace(entry, told_by="the list"))
        else:
            missing.append(not_there(entry.path))
    return Found(there, missing)


def unwanted(entry: ScanEntry, contrasts: tuple[str, ...], max_quality_score: float | None) -> str | None:
    """Why an entry is filtered out, if it is."""
    if contrasts and entry.contrast not in contrasts:
        return f"contrast {entry.contrast or 'unknown'} is not wanted"
    if max_quality_score is not None and entry.quality is not None and entry.quality > max_quality_score:
        return f"quality score {entry.quality:g} is above {max_quality_score:g}"
    return None


def _participants(source: Path, found: Found) -> Iterator[SetAside]:
    """Rows of a BIDS tree's participants.tsv of whom there is no scan."""
    from mdae.data.name_matching import match_names  # here: most commands need no table
    from mdae.data.tables import read_text_table

    table = source / PARTICIPANTS
    if not table.is_file():
        return
    subjects = {entry.subject for entry in found.entries}
    try:
        names = read_text_table(table, "participant_id")["participant_id"]
    except DataError as error:  # the scans are there all the same
        yield SetAside(str(table), error.what, error.mend or "", num_files="0")
        return
    known = match_names(names, subjects).pairs
    for name in names:
        if name not in known:
            mend = "nothing, if there is none to be had"
            yield SetAside(f"{table}: {name}", NO_SCAN, mend, num_files="0")
