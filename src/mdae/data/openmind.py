"""OpenMind as it lies on the Hugging Face Hub: a table of metadata and the scans and masks that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdae.data.catalogue import ScanEntry, optional_path, quality_score, safe_name
from mdae.data.formats import scan_stem
from mdae.errors import DataError

TABLE = "openneuro_metadata.csv"
FOLDER = "OpenMind"  # of the scans, beside the table
PATHS = ("image_path", "anat_mask_path", "anon_mask_path")


def openmind_folder(table: Path) -> Path:
    """Where the paths of a table begin: the folder beside it, or its own if somebody moved the scans there."""
    beside = table.parent / FOLDER
    return beside if beside.is_dir() else table.parent


def openmind_rows(path: Path, root: Path) -> Iterator[ScanEntry]:
    """Rows of OpenMind's metadata; image_path begins data set, subject, and possibly session."""
    from mdae.data.tables import read_text_table  # here: most commands need no table

    for row in read_text_table(path, "image_path").to_dict("records"):
        parts = Path(row["image_path"]).parts
        if len(parts) < 3:
            raise DataError(
                f"image_path {row['image_path']!r} names no subject", where=path, mend="download it again"
            )
        if any(".." in Path(row.get(name, "")).parts or row.get(name, "").startswith("/") for name in PATHS):
            raise DataError(f"row {row['image_path']!r} leads out of its folder", where=path, mend="mend it")
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
            anatomy_mask=optional_path(root, row.get("anat_mask_path")),
            anonymisation_mask=optional_path(root, row.get("anon_mask_path")),
            quality=quality_score(row.get("image_quality_score", ""), path),
        )
