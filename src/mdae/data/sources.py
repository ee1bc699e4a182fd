"""Piles of scans, in whatever shape they lie: each kind of source is recognised and listed, with what is left out.

| source | recognised by |
|---|---|
| OpenMind as on the Hugging Face Hub | a folder with `openneuro_metadata.csv` |
| nnssl's raw list | `pretrain_data.json`, or a folder with it |
| what nnssl has preprocessed | `pretrain_data__onemmiso.json`, or a folder with it: used in place, without a copy |
| a manifest | a .csv, .tsv or .parquet with a column `path` |
| a BIDS tree, a folder of scans, one scan | anything else |
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdae.data.catalogue import ScanEntry, list_folder, safe_name, unique
from mdae.data.io import is_scan, scan_stem
from mdae.data.set_aside import SetAside
from mdae.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NNSSL_LIST = "pretrain_data.json"
NNSSL_PREPARED_LIST = "pretrain_data__onemmiso.json"
OPENMIND_TABLE = "openneuro_metadata.csv"
NNSSL_RAW, NNSSL_PREPARED = "nnssl's raw list", "preprocessed by nnssl"
TABLES = (".csv", ".tsv", ".parquet")


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


def discover(source: Path) -> list[ScanEntry]:
    """The scans of a source of any kind, sorted by `scan_id`; raises as `list_source`."""
    return list_source(source).entries


def list_source(
    source: Path, *, contrasts: tuple[str, ...] = (), max_quality_score: float | None = None
) -> Listing:
    """Recognise a source and list its scans.

    Args:
        source: a file or folder.
        contrasts: take these alone; all if empty.
        max_quality_score: leave out scans with a higher (worse) score; those without one are taken.

    Raises:
        DataError: no such source, one that cannot be read as what it claims to be, or no scan in it.
    """
    source = Path(source)
    if not source.exists():
        raise DataError("no such file or folder", where=source, mend="check the path")
    kind, entries, left_out = _recognised(source)
    taken = []
    for entry in entries:
        if reason := _unwanted(entry, contrasts, max_quality_score):
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


def _recognised(source: Path) -> tuple[str, list[ScanEntry], list[SetAside]]:
    """Kind, entries and left-out files of a source."""
    if source.name == OPENMIND_TABLE or (source / OPENMIND_TABLE).is_file():
        table = source if source.is_file() else source / OPENMIND_TABLE
        return "OpenMind", *_present(_openmind_rows(table))
    for kind, name in ((NNSSL_PREPARED, NNSSL_PREPARED_LIST), (NNSSL_RAW, NNSSL_LIST)):
        if source.name == name or (source / name).is_file():
            return kind, *_present(_nnssl_images(source if source.is_file() else source / name))
    if source.is_file() and source.suffix == ".json":
        return NNSSL_RAW, *_present(_nnssl_images(source))
    if source.is_file() and source.suffix in TABLES:
        return "manifest", *_present(_manifest_rows(source))
    if source.is_file() and not is_scan(source):
        raise DataError(
            "neither a scan nor a list of scans", where=source, mend="give a folder or a manifest"
        )
    return "folder of scans", *list_folder(source)


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


def _unwanted(entry: ScanEntry, contrasts: tuple[str, ...], max_quality_score: float | None) -> str | None:
    """Why an entry is filtered out, if it is."""
    if contrasts and entry.contrast not in contrasts:
        return f"contrast {entry.contrast or 'unknown'} is not wanted"
    if max_quality_score is not None and entry.quality is not None and entry.quality > max_quality_score:
        return f"quality score {entry.quality:g} is above {max_quality_score:g}"
    return None


# -- tables ------------------------------------------------------------------------------------------------------


def _read_table(path: Path, required: str) -> pd.DataFrame:
    """A table of text, "" where a cell is empty."""
    import pandas as pd  # here: most commands need no table

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(
            f"not a table that can be read ({error})", where=path, mend="check the file"
        ) from error
    if required not in table.columns:
        have = ", ".join(map(str, table.columns))
        raise DataError(
            f"no column {required!r}; it has {have}", where=path, mend="name the column of files so"
        )
    return table.astype(object).where(table.notna(), "").astype(str)


def _manifest_rows(path: Path) -> Iterator[ScanEntry]:
    """Rows with `path` (absolute, or from the manifest's folder) and optionally subject, session, contrast, masks.

    Without a subject each file is a subject of its own.
    """
    for row in _read_table(path, "path").to_dict("records"):
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
            anatomy_mask=_optional(path.parent, row.get("anatomy_mask")),
            anonymisation_mask=_optional(path.parent, row.get("anonymisation_mask")),
            quality=_number(row.get("quality", ""), path),
        )


def _openmind_rows(path: Path) -> Iterator[ScanEntry]:
    """Rows of OpenMind's metadata; image_path begins data set, subject, and possibly session."""
    root = path.parent / "OpenMind" if (path.parent / "OpenMind").is_dir() else path.parent
    for row in _read_table(path, "image_path").to_dict("records"):
        parts = Path(row["image_path"]).parts
        if len(parts) < 3:
            raise DataError(
                f"image_path {row['image_path']!r} names no subject", where=path, mend="download it again"
            )
        session = parts[2].removeprefix("ses-") if parts[2].startswith("ses-") else ""
        inner = [part for part in parts[2:-1] if not part.startswith("ses-")]
        yield ScanEntry(
            scan_id=safe_name(
                "__".join(
                    [
                        parts[0],
                        parts[1],
                        *([parts[2]] if session else []),
                        *inner[1:],
                        scan_stem(Path(parts[-1])),
                    ]
                )
            ),
            subject=f"{parts[0]}/{parts[1].removeprefix('sub-')}",
            session=session,
            contrast=row.get("modality", ""),
            path=root / row["image_path"],
            anatomy_mask=_optional(root, row.get("anat_mask_path")),
            anonymisation_mask=_optional(root, row.get("anon_mask_path")),
            quality=_number(row.get("image_quality_score", ""), path),
        )


def _optional(root: Path, name: str | None) -> Path | None:
    return root / name if name else None


def _number(text: str, path: Path) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise DataError(f"a quality score of {text!r}", where=path, mend="give numbers") from error


# -- nnssl -------------------------------------------------------------------------------------------------------


def _nnssl_images(path: Path) -> Iterator[ScanEntry]:
    """The images of nnssl's `pretrain_data.json`: collection, data sets, subjects, sessions, images."""
    try:
        collection = json.loads(path.read_text())
        datasets = collection["datasets"]
        for dataset in datasets.values():
            for subject_id, subject in dataset["subjects"].items():
                for session_id, session in subject["sessions"].items():
                    for image in session["images"]:
                        yield _nnssl_image(path, str(dataset["dataset_index"]), subject_id, session_id, image)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not nnssl's list of images ({type(error).__name__}: {error})",
            where=path,
            mend=f"give the {NNSSL_LIST} that nnssl wrote",
        ) from error


def _nnssl_image(path: Path, dataset: str, subject: str, session: str, image: dict[str, Any]) -> ScanEntry:
    masks = image.get("associated_masks") or {}
    resolve: Callable[[str | None], Path | None] = lambda name: _with_variable(name, path) if name else None  # noqa: E731
    file = _with_variable(image["image_path"], path)
    return ScanEntry(
        scan_id=safe_name("__".join([dataset, subject, session, scan_stem(Path(image["name"]))])),
        subject=f"{dataset}/{subject.removeprefix('sub-')}",
        session=session.removeprefix("ses-"),
        contrast=str(image.get("modality") or ""),
        path=file,
        anatomy_mask=resolve(masks.get("anatomy_mask")),
        anonymisation_mask=resolve(masks.get("anonymization_mask")),
    )


def _with_variable(name: str, where: Path) -> Path:
    """A path whose first part may be an environment variable, `$nnssl_raw` say."""
    if not name.startswith("$"):
        return where.parent / name
    variable, _, rest = name[1:].partition("/")
    if variable == "nnssl_preprocessed" and where.name == NNSSL_PREPARED_LIST:
        return where.resolve().parents[1] / rest  # the list lies in a data set's folder below it
    if variable not in os.environ:
        raise DataError(
            f"its paths begin with ${variable}, which is not set",
            where=where,
            mend=f"export {variable}=FOLDER",
        )
    return Path(os.environ[variable]) / rest
