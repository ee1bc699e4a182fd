"""Small trees of made-up subjects in the layouts, names and columns of the real data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from mdae.seeding import numpy_generator
from tests.data.test_dicom import write_series

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
SUBJECTS = 12


def volume(number: int, effect: float = 0.0) -> np.ndarray:
    """A noisy head; `effect` brightens a piece of it."""
    rng = numpy_generator(number, "tree")
    x, y, z = np.indices((18, 20, 17))
    head = ((x - 9) / 7.5) ** 2 + ((y - 10) / 8.5) ** 2 + ((z - 8) / 7.5) ** 2 < 1
    data = np.where(head, 100 + 20 * rng.standard_normal(head.shape), 3.0)
    data[6:10, 8:13, 6:10] += 60 * effect
    return data.clip(0, 4000).astype(np.float32)


def save(path: Path, number: int, effect: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume(number, effect), AFFINE), path)


def save_mask(path: Path, number: int, *, enhancing: int = 4) -> None:
    """A tumour of oedema (2), necrotic core (1) and enhancing rim, a little elsewhere in each subject."""
    where = np.indices((18, 20, 17)) - np.array([8, 10, 8])[:, None, None, None] + number % 3
    distance = np.abs(where).max(axis=0)
    mask = np.select([distance <= 1, distance == 2, distance <= 4], [1, enhancing, 2], 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), path)


def brats18(root: Path) -> Path:
    root = root / "MICCAI_BraTS_2018_Data_Training"
    for number in range(SUBJECTS):
        grade = "HGG" if number % 2 else "LGG"
        name = f"Brats18_TCIA{number % 3:02d}_{100 + number}_1"
        for index, contrast in enumerate(("t1", "t1ce", "t2", "flair")):
            save(root / grade / name / f"{name}_{contrast}.nii.gz", 10 * number + index, number % 2)
        save_mask(root / grade / name / f"{name}_seg.nii.gz", number)
    (root / "survival_data.csv").write_text("Brats18ID,Age,Survival\n")
    return root


def brats23(root: Path) -> Path:
    for number in range(3 * SUBJECTS):
        kind = ("GLI", "MEN", "MET")[number % 3]
        folder = root / f"ASNR-MICCAI-BraTS2023-{kind}-Challenge-TrainingData"
        for visit in (0, 1) if number == 3 else (0,):
            name = f"BraTS-{kind}-{number:05d}-{visit:03d}"
            for index, contrast in enumerate(("t1n", "t1c", "t2w", "t2f")):
                save(folder / name / f"{name}-{contrast}.nii.gz", 10 * number + index + visit, number % 3 / 2)
            save_mask(folder / name / f"{name}-seg.nii.gz", number, enhancing=3)
    return root


def rsna_miccai(root: Path) -> Path:
    names = [f"{number:05d}" for number in range(SUBJECTS)] + ["00109"]
    for number, name in enumerate(names):
        for index, contrast in enumerate(("FLAIR", "T1w", "T1wCE", "T2w")):
            folder = write_series(
                root / "train" / name / contrast,
                np.round(volume(10 * number + index, number % 2)).astype(np.uint16),
                AFFINE,
                PatientID=name,
                ImageType=["DERIVED", "SECONDARY"],
            )
            for place, path in enumerate(sorted(folder.iterdir())):
                path.rename(folder / f"Image-{place + 1}.dcm")
    labels = {"BraTS21ID": [int(name) for name in names], "MGMT_value": [i % 2 for i in range(len(names))]}
    pd.DataFrame(labels).to_csv(root / "train_labels.csv", index=False)
    return root


def ucsf_pdgm(root: Path) -> Path:
    rows = []
    for number in range(SUBJECTS):
        name = f"UCSF-PDGM-{number:04d}"
        folder = root / f"{name}_nifti"
        for index, contrast in enumerate(("T1", "T1c", "T2", "FLAIR", "SWI", "ASL")):
            save(folder / f"{name}_{contrast}.nii.gz", 10 * number + index, number % 2)
        save_mask(folder / f"{name}_tumor_segmentation.nii.gz", number)
        rows.append(
            {
                "ID": f"UCSF-PDGM-{number:03d}",
                "Sex": "MF"[number % 2],
                "Age at MRI": 40 + number,
                "WHO CNS Grade": 4,
                "MGMT status": "positive",
                "IDH": ("wildtype", "IDH1 p.R132H", "wildtype", "mutated (NOS)")[number % 4],
                "OS": 200 + 50 * number,
                "1-dead 0-alive": int(number % 3 > 0),
            }
        )
    save(root / "UCSF-PDGM-0003_FU001d_nifti" / "UCSF-PDGM-0003_FU001d_SWI.nii.gz", 1)
    pd.DataFrame(rows).to_csv(root / "UCSF-PDGM-metadata_v2.csv", index=False)
    return root


def upenn_gbm(root: Path) -> Path:
    rows = []
    for number in range(2 * SUBJECTS):
        name = f"UPENN-GBM-{number + 1:05d}"
        for visit in ("11", "21") if number == 0 else ("11",):
            full = f"{name}_{visit}"
            for index, contrast in enumerate(("T1", "T1GD", "T2", "FLAIR")):
                save(
                    root / "images_structural" / full / f"{full}_{contrast}.nii.gz",
                    10 * number + index,
                    number / (2 * SUBJECTS),
                )
            rows.append(
                {
                    "ID": full,
                    "Gender": "MF"[number % 2],
                    "Age_at_scan_years": 44.5 + 1.5 * number,
                    "Survival_from_surgery_days_UPDATED": (200, 400, 600, 900)[number % 4],
                    "Survival_Status": {4: "Alive", 9: "Deceased - uncertain date of death"}.get(
                        number, "Deceased"
                    ),
                    "IDH1": "NOS/NEC" if number == 5 else ("Wildtype", "Mutated")[number // 2 % 2],
                    "GTR_over90percent": "Not Available" if number == 7 else "YN"[number // 3 % 2],
                }
            )
    pd.DataFrame(rows).to_csv(root / "UPENN-GBM_clinical_info_v2.1.csv", index=False)
    return root


def tcga_gbm(root: Path) -> Path:
    rows = []
    words = {"T1w": "AX T1", "T1w-gd": "AX T1 POST", "T2w": "AX T2 FSE", "FLAIR": "AX T2 FLAIR"}
    for number in range(SUBJECTS):
        name = f"TCGA-02-{number:04d}"
        for index, description in enumerate(words.values()):
            whole = np.round(volume(10 * number + index, number % 2)).astype(np.uint16)
            folder = root / "TCGA-GBM" / name / "study" / str(index)
            write_series(folder, whole, AFFINE, PatientID=name, SeriesDescription=description)
        rows.append(
            {
                "bcr_patient_barcode": name,
                "DSS": 1,
                "DSS.time": 100 + 600 * (number % 2),
                "PFI": 1,
                "PFI.time": 600 - 400 * (number % 2),
            }
        )
    pd.DataFrame(rows).to_csv(root / "TCGA-CDR.csv", index=False)
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "brats18": brats18,
    "brats23": brats23,
    "rsna-miccai": rsna_miccai,
    "ucsf-pdgm": ucsf_pdgm,
    "upenn-gbm": upenn_gbm,
    "tcga-gbm": tcga_gbm,
}
