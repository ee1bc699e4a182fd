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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mdae.data import nnssl_list, openmind
from mdae.data.catalogue import ScanEntry, list_folder, optional_path, quality_score, safe_name, unique
from mdae.data.dicom import list_series
from mdae.data.io import MIN_SLICES, is_scan, scan_stem
from mdae.data.set_aside import SetAside
from mdae.errors import DataError

NNSSL_RAW, NNSSL_PREPARED = "nnssl's raw list", "preprocessed by nnssl"
TABLES = (".csv", ".tsv", ".parquet")
PARTICIPANTS = "participants.tsv"


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        kind: what it was recognised as.
        entries: the scans, sorted by `scan_id`.
        left_out: files and rows that are not taken, with reasons.
    """

    kind: str
    entries: list[ScanEntry]
    left_out: list[SetAside]


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
) -> Listing:
    """Recognise a source and list its scans.

    Args:
        source: a file or folder.
        contrasts: take these alone; all if empty.
        max_quality_score: leave out scans with a higher (worse) score; those without one are taken.
        derived: take DICOM series that were computed from others as well.
        min_slices: leave out DICOM series of fewer.

    Raises:
        DataError: no such source, one that cannot be read as what it claims to be, or no scan in it.
    """
    source = Path(source)
    if not source.exists():
        raise DataError("no such file or folder", where=source, mend="check the path")
    kind, entries, left_out = _recognised(source, derived=derived, min_slices=min_slices)
    taken = []
    for entry in entries:
        if reason := unwanted(entry, contrasts, max_quality_score):
            left_out.append(SetAside(str(entry.path), reason))
        else:
            taken.append(entry)
    if not taken:
        reasons = (
            f"; {len(left_out)} left out, e.g. {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        )
        raise DataError(
            f"no scan to take there ({kind}{reasons})",
            where=source,
            mend="give a folder of scans, a BIDS tree, a manifest, OpenMind or nnssl's list",
        )
    return Listing(kind, unique(taken, source if source.is_dir() else source.parent), left_out)


def _recognised(
    source: Path, *, derived: bool, min_slices: int
) -> tuple[str, list[ScanEntry], list[SetAside]]:
    """Kind, entries and left-out files of a source."""
    if table := _named(source, openmind.TABLE):
        return "OpenMind", *_present(openmind.openmind_rows(table, openmind.openmind_folder(table)))
    if listed := _named(source, nnssl_list.PREPARED_LIST):
        return NNSSL_PREPARED, *_present(nnssl_list.nnssl_images(listed))
    if listed := _named(source, nnssl_list.RAW_LIST):
        return NNSSL_RAW, *_present(nnssl_list.nnssl_images(listed))
    if source.is_file() and source.suffix == ".json":
        return NNSSL_RAW, *_present(nnssl_list.nnssl_images(source))
    if source.is_file() and source.suffix in TABLES:
        return "manifest", *_present(_manifest_rows(source))
    if source.is_file() and not is_scan(source):
        raise DataError(
            "neither a scan nor a list of scans", where=source, mend="give a folder or a manifest"
        )
    return _folder(source, derived=derived, min_slices=min_slices)


def _named(source: Path, name: str) -> Path | None:
    """The file of that name, if the source is it or holds it."""
    path = source if source.name == name else source / name
    return path if path.is_file() else None


def _present(entries: Iterator[ScanEntry]) -> tuple[list[ScanEntry], list[SetAside]]:
    """Listed scans that are on disk, and the others: a download may be partial."""
    there, missing = [], []
    for entry in entries:
        if entry.path.is_file():
            there.append(entry)
        else:
            missing.append(
                SetAside(str(entry.path), "listed, but no such file", "download it, or mend the list")
            )
    return there, missing


def unwanted(entry: ScanEntry, contrasts: tuple[str, ...], max_quality_score: float | None) -> str | None:
    """Why an entry is filtered out, if it is."""
    if contrasts and entry.contrast not in contrasts:
        return f"contrast {entry.contrast or 'unknown'} is not wanted"
    if max_quality_score is not None and entry.quality is not None and entry.quality > max_quality_score:
        return f"quality score {entry.quality:g} is above {max_quality_score:g}"
    return None


def _manifest_rows(path: Path) -> Iterator[ScanEntry]:
    """Rows with `path` (absolute, or from the manifest's folder) and optionally subject, session, contrast, masks.

    Without a subject each file is a subject of its own.
    """
    from mdae.data.tables import read_text_table  # here: most commands need no table

    for row in read_text_table(path, "path").to_dict("records"):
        file = path.parent / row["path"]
        stem = scan_stem(file)
        subject, session, contrast = (row.get(name, "") for name in ("subject", "session", "contrast"))
        parts = [part for part in (subject, session) if part]
        yield ScanEntry(
            scan_id=safe_name("__".join([*parts, stem])),
            subject=subject or stem,
            session=session,
            contrast=contrast,
            path=file,
            anatomy_mask=optional_path(path.parent, row.get("anatomy_mask")),
            anonymisation_mask=optional_path(path.parent, row.get("anonymisation_mask")),
            quality=quality_score(row.get("quality", ""), path),
        )


def _folder(source: Path, *, derived: bool, min_slices: int) -> tuple[str, list[ScanEntry], list[SetAside]]:
    """The scans and DICOM series below a folder, and participants without a scan."""
    entries, left_out, others = list_folder(source)
    series, unfit = list_series(others, source, derived=derived, min_slices=min_slices)
    entries += series
    left_out += unfit
    if (source / PARTICIPANTS).is_file():
        left_out += _without_scan(source / PARTICIPANTS, {entry.subject for entry in entries})
    if not series:
        return "folder of scans", entries, left_out
    return "DICOM" if len(series) == len(entries) else "folder of scans and DICOM", entries, left_out


def _without_scan(table: Path, subjects: set[str]) -> list[SetAside]:
    """Rows of a BIDS tree's participants.tsv of whom there is no scan."""
    from mdae.data.tables import read_text_table  # here: most commands need no table

    try:
        names = read_text_table(table, "participant_id")["participant_id"]
    except DataError as error:  # the scans are there all the same
        return [SetAside(str(table), error.what, error.mend or "")]
    return [
        SetAside(f"{table}: {name}", "a participant without a scan")
        for name in names
        if name.removeprefix("sub-") not in subjects
    ]
