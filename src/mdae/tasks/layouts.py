"""How data sets lie on disk as they are downloaded: each adapter lists the cases of one, or says what is missing.

An adapter states the version that it was written for. Where a file name or a column is not as expected it fails with
what it found, for a guess would end up in a table of results.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from mdae.data.dicom import list_series
from mdae.errors import DataError
from mdae.tasks.case import Case, file_of, files_of, scan_of, table_of, with_rows
from mdae.tasks.nnunet_raw import nnunet_raw
from mdae.tasks.own import bids, table

__all__ = ["LAYOUTS", "Case", "read_cases"]

Adapter = Callable[[Path], list[Case]]


def read_cases(layout: str, root: Path) -> list[Case]:
    """The cases of a data set, sorted by subject.

    Args:
        layout: a name of `LAYOUTS`.
        root: the folder that the download unpacked to; for `table`, the table.

    Raises:
        DataError: not that data set, nothing in it, or a subject that it holds twice.
    """
    if layout not in LAYOUTS:
        raise DataError(f"no layout {layout!r}", mend=f"use one of {', '.join(LAYOUTS)}")
    root = Path(root)
    if not root.exists():
        raise DataError(
            "no such file or folder", where=root, mend="give the folder of the download with --data"
        )
    cases = sorted(LAYOUTS[layout](root), key=lambda case: case.subject)
    if not any(case.scans for case in cases):
        raise DataError(f"no scan of {layout} in it", where=root, mend="see `mdae tasks NAME` for its layout")
    if twice := next((a.subject for a, b in pairwise(cases) if a.subject == b.subject), ""):
        raise DataError(f"subject {twice} is in it twice", where=root, mend="keep one folder and row of each")
    return cases


def _below(root: Path, name: str) -> Path:
    """A folder of that name in the root, or the root itself, whatever it is called."""
    return root / name if (root / name).is_dir() else root


def brats18(root: Path) -> list[Case]:
    """BraTS 2018 training data: the folder HGG or LGG is the grade."""
    root = _below(root, "MICCAI_BraTS_2018_Data_Training")
    cases = []
    for grade in ("HGG", "LGG"):
        if not (root / grade).is_dir():
            raise DataError(
                f"no folder {grade}", where=root, mend="give the folder that the download unpacked to"
            )
        for folder in sorted((root / grade).glob("Brats18_*")):
            subject = folder.name.removeprefix("Brats18_").removesuffix("_1")
            names = {name: f"{folder.name}_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")}
            mask = file_of(folder / f"{folder.name}_seg.nii.gz")
            row = {"grade": grade, "site": subject.partition("_")[0]}
            cases.append(Case(subject, files_of(folder, subject, names), row, mask))
    return cases


BRATS23 = re.compile(r"BraTS-(GLI|MEN|MET)-(\d{5})-(\d{3})")


def brats23(root: Path) -> list[Case]:
    """BraTS 2023 training data of glioma, meningioma and metastasis; a subject's first time point."""
    first: dict[str, Path] = {}
    folders = (path for path in root.rglob("BraTS-*-*-*") if path.is_dir() and BRATS23.fullmatch(path.name))
    folders = (path for path in folders if "ValidationData" not in path.relative_to(root).as_posix())
    for folder in sorted(folders, key=lambda path: path.name):
        first.setdefault(folder.name.rpartition("-")[0], folder)
    cases = []
    for name, folder in first.items():
        subject = name.removeprefix("BraTS-")
        names = {contrast: f"{folder.name}-{contrast}.nii.gz" for contrast in ("t1n", "t1c", "t2w", "t2f")}
        mask = file_of(folder / f"{folder.name}-seg.nii.gz")
        row = {"tumour": subject.split("-")[0]}
        cases.append(Case(subject, files_of(folder, subject, names), row, mask))
    return cases


MICCAI_FAULTY = ("00109", "00123", "00709")  # left out by the organisers


def rsna_miccai(root: Path) -> list[Case]:
    """RSNA-ASNR-MICCAI 2021 radiogenomic classification: DICOM slices by subject and contrast."""
    table = table_of(root, "train_labels.csv", ("BraTS21ID", "MGMT_value"))
    cases = []
    for row in table.to_dict("records"):
        subject = row["BraTS21ID"].zfill(5)
        if subject in MICCAI_FAULTY:
            continue
        case = Case(subject, row={str(name): value for name, value in row.items()})
        for contrast in ("FLAIR", "T1w", "T1wCE", "T2w"):
            slices = tuple(sorted((root / "train" / subject / contrast).glob("Image-*.dcm"), key=_number))
            if slices:
                case.scans[contrast] = scan_of(subject, contrast, slices[0], slices)
        cases.append(case)
    return cases


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or 0)


UCSF_COLUMNS = ("ID", "Sex", "Age at MRI", "WHO CNS Grade", "MGMT status", "IDH")
UCSF_FOLLOW_UPS = {138: 429, 175: 396, 181: 409, 278: 431, 289: 391, 315: 433}  # of whom
UCSF_CONTRASTS = ("T1", "T1c", "T2", "FLAIR", "SWI", "ASL", "DWI", "ADC")


def ucsf_pdgm(root: Path) -> list[Case]:
    """UCSF-PDGM; folders number subjects by four digits, its table by three; follow-ups are left out.

    They are called FU in newer releases. In older ones six stand under numbers of their own (`UCSF_FOLLOW_UPS`).
    """
    table = table_of(root, "UCSF-PDGM-metadata*.csv", UCSF_COLUMNS)
    rows: dict[int, list[dict[Any, str]]] = {}
    for row in table.to_dict("records"):
        rows.setdefault(_number(Path(row["ID"])), []).append(row)
    cases = []
    for folder in sorted(root.rglob("UCSF-PDGM-*_nifti")):
        name = folder.name.removesuffix("_nifti")
        if (
            "_FU" in name
            or _number(Path(name)) in UCSF_FOLLOW_UPS
            or (said := rows.get(_number(Path(name)))) is None
        ):
            continue
        names = {contrast: f"{name}_{contrast}.nii.gz" for contrast in UCSF_CONTRASTS}
        case = with_rows(Case(name, files_of(folder, name, names)), said)
        case.mask = file_of(folder / f"{name}_tumor_segmentation.nii.gz")
        cases.append(case)
    return cases


UPENN_COLUMNS = (
    *("ID", "Gender", "Age_at_scan_years", "Survival_from_surgery_days_UPDATED", "Survival_Status", "IDH1"),
    "GTR_over90percent",
)


def upenn_gbm(root: Path) -> list[Case]:
    """UPenn-GBM, the scans before surgery (names that end in _11)."""
    table = table_of(root, "UPENN-GBM_clinical_info_v*.csv", UPENN_COLUMNS)
    images, ending = _upenn_images(root)
    cases = []
    for row in table.to_dict("records"):
        name = row["ID"] if row["ID"].endswith(("_11", "_21")) else f"{row['ID']}_11"
        if not name.endswith("_11"):
            continue
        names = {contrast: f"{name}_{contrast}{ending}.nii.gz" for contrast in ("T1", "T1GD", "T2", "FLAIR")}
        subject = name.removesuffix("_11")
        scans = files_of(images / name, subject, names)
        cases.append(Case(subject, scans, {str(key): value for key, value in row.items()}))
    return cases


def _upenn_images(root: Path) -> tuple[Path, str]:
    """The folder of structural scans and what their names end in: stripped ones before those with a skull."""
    for folder, ending in (("images_structural", ""), ("images_structural_unstripped", "_unstripped")):
        found = [
            path for path in (root, *sorted(root.rglob(folder))) if path.name == folder and path.is_dir()
        ]
        if found:
            return found[0], ending
    return root, ""


TCGA_COLUMNS = ("bcr_patient_barcode", "DSS", "DSS.time", "PFI", "PFI.time")


def tcga_gbm(root: Path) -> list[Case]:
    """TCGA-GBM: DICOM by patient, survival from the TCGA clinical data resource beside it: the xlsx, a CSV or a TSV.

    Of several series of one contrast the one with most slices is taken. Contrasts are guessed from descriptions.
    """
    pattern = "*.csv *.tsv *.xlsx"
    rows: dict[str, list[dict[Any, str]]] = {}
    for row in table_of(root, pattern, TCGA_COLUMNS).to_dict("records"):
        rows.setdefault(row["bcr_patient_barcode"], []).append(row)
    cases = []
    for folder in sorted(path for path in root.rglob("TCGA-*-*") if path.is_dir()):
        if folder.name not in rows:
            continue
        entries, _ = list_series(
            (path for path in folder.rglob("*") if path.is_file()), folder, derived=False
        )
        case = with_rows(Case(folder.name), rows[folder.name])
        for entry in sorted(entries, key=lambda entry: len(entry.slices)):
            case.scans[entry.contrast] = scan_of(folder.name, entry.contrast, entry.path, entry.slices)
        cases.append(case)
    return cases


LAYOUTS: dict[str, Adapter] = {
    "brats18": brats18,
    "brats23": brats23,
    "rsna-miccai": rsna_miccai,
    "ucsf-pdgm": ucsf_pdgm,
    "upenn-gbm": upenn_gbm,
    "tcga-gbm": tcga_gbm,
    "bids": bids,
    "table": table,
    "nnunet": nnunet_raw,
}
