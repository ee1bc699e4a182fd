"""Features that know something of labels, and a pile of scans with names as archives have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from mdae.inference.config import FitConfig
from mdae.seeding import numpy_generator

NUM, VISITS, FEATURES = 60, 2, 12


def write_tables(folder: Path, *, seed: int = 0, number: int = NUM) -> tuple[Path, Path]:
    """Features of subjects with two scans each, and their labels: two classes, three, a number, a time."""
    rng = numpy_generator(seed, "small")
    names = [f"site{'AB'[i % 2]}/{7 * i:04d} Ä" for i in range(number)]
    x = rng.standard_normal((number, 1, FEATURES)) + 0.3 * rng.standard_normal((number, VISITS, FEATURES))
    noise = rng.standard_normal((5, number))
    own = x.mean(axis=1)
    features = pd.DataFrame(x.reshape(-1, FEATURES), columns=[f"f{i:04d}" for i in range(FEATURES)])
    subjects = np.repeat(names, VISITS)
    features.insert(0, "scan", [f"{name} {i % VISITS}" for i, name in enumerate(subjects)])
    features.insert(1, "subject", subjects)
    labels = pd.DataFrame(
        {
            "subject": names,
            "diagnosis": np.where(own[:, 0] + noise[0] > 0, "patient", "control"),
            "stage": np.array(["I", "II", "III"])[np.digitize(own[:, 1] + 0.5 * noise[1], [-0.6, 0.6])],
            "age": 60 + 8 * own[:, 2] + 3 * noise[2],
            "months": rng.exponential(np.exp(-2 * own[:, 3])) + 0.01,
            "died": (noise[3] > -0.5).astype(int),
        }
    )
    features.to_csv(folder / "features.csv", index=False)
    labels.to_csv(folder / "labels.csv", index=False)
    return folder / "features.csv", folder / "labels.csv"


def config(folder: Path, label: str, **changes: object) -> FitConfig:
    options: dict[str, object] = {
        "encoder": str(folder / "features.csv"),
        "labels": folder / "labels.csv",
        "out": folder / "out",
        "folds": 3,
        "repeats": 1,
        **changes,
    }
    return FitConfig(label=label, **options)  # type: ignore[arg-type]


def clinic(cohort: Path, folder: Path) -> tuple[Path, Path]:
    """The T1w scans of a cohort under a clinic's names, and their labels: a table of paths."""
    people = pd.read_csv(cohort / "participants.tsv", sep="\t", dtype=str)
    rows = []
    (folder / "archive").mkdir(parents=True)
    for index, name in enumerate(people["participant_id"]):
        place = folder / "archive" / f"ADNI_{index:03d}_S_{4000 + index} T1.nii.gz"
        shutil.copy(cohort / name / "anat" / f"{name}_T1w.nii.gz", place)
        rows.append((f"archive/{place.name}", f"{index:03d}_S_{4000 + index}", people["lesion"][index]))
    table = pd.DataFrame(rows, columns=["path", "subject", "lesion"])
    table.to_csv(folder / "labels.csv", index=False)
    return folder / "archive", folder / "labels.csv"
