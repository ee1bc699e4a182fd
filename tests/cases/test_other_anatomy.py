"""CT of the lung and crops of the hippocampus, real ones, from raw files to a score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.data.intensity import PRESETS
from mdae.data.store import Store

pytestmark = pytest.mark.slow

RUN = ["--steps", "4", "--batch", "2", "--patch", "16", "16", "16", "--network", "tiny", "--precision", "32"]


def some_of(source: Path, target: Path, names: list[str]) -> Path:
    """A raw data set of nnU-Net's with some of its cases."""
    for name in names:
        for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
            (target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / folder / f"{name}{suffix}.nii.gz", target / folder)
    about = json.loads((source / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps({**about, "numTraining": len(names)}))
    return target


def run(*words: object) -> None:
    main([str(word) for word in words])


def evaluate(folder: Path, task: Path, *options: object) -> None:
    """Score the run's model on a task, and see that there is a result."""
    common = ["--folds", 2, "--repeats", 1, "--cache", folder / "cache", "--out", folder / "results"]
    run("evaluate", "--encoder", folder / "run" / "model", "--task", task, *common, *options)
    assert list((folder / "results").rglob("*.json"))


@pytest.fixture
def lidc(real_scans) -> Path:
    if not (real_scans / "lidc-nodules").is_dir():
        pytest.skip("no lung nodules in MDAE_TEST_DATA")
    return real_scans / "lidc-nodules"


@pytest.fixture
def hippocampus(real_scans) -> Path:
    if not (real_scans / "hippocampus").is_dir():
        pytest.skip("no hippocampus in MDAE_TEST_DATA")
    return real_scans / "hippocampus"


def test_lung_nodules_in_hounsfield_units_from_raw_to_a_score(lidc, tmp_path):
    table = pd.read_csv(lidc / "labels.csv").groupby("malignant").head(12)
    source = some_of(lidc, tmp_path / "in", list(table["scan"]))
    table[["scan", "subject"]].to_csv(tmp_path / "subjects.csv", index=False)
    contract = ["--anatomy", "none", "--intensity", "ct-lung", "--min-slices", "2", "--subjects"]
    run("prepare", source, tmp_path / "store", *contract, tmp_path / "subjects.csv", "--workers", 1)
    store = Store.open(tmp_path / "store")
    assert len(store.scans) == 24 and {scan.subject for scan in store.scans} == set(table["subject"])
    assert store.contract.intensity == PRESETS["ct-lung"] and min(min(s.shape) for s in store.scans) < 16
    volume = store.read(store.scans[0]).astype(np.float32)
    assert abs(volume.mean()) < 0.15 and 0.8 < volume.std() < 1.2
    run("pretrain", tmp_path / "store", tmp_path / "run", *RUN)
    run("embed", tmp_path / "run" / "model", source / "imagesTr", "--out", tmp_path / "f.csv")
    features = pd.read_csv(tmp_path / "f.csv", keep_default_na=False)
    assert len(features) == 24 and not features["warnings"].str.contains("modality").any()
    rows = table.assign(
        path=[f"in/imagesTr/{name}_0000.nii.gz" for name in table["scan"]],
        contrast="CT",
        subject=table["scan"],
    )
    rows[["path", "subject", "contrast", "malignant"]].to_csv(tmp_path / "task.csv", index=False)
    (tmp_path / "task.yaml").write_text(
        "name: malignant\ntitle: malignant\nlayout: table\ncontrasts: [CT]\n"
        "label: {column: malignant, positive: 1}\n"
    )
    evaluate(tmp_path, tmp_path / "task.yaml", "--data", tmp_path / "task.csv")


def test_hippocampus_crops_from_raw_to_a_score(hippocampus, tmp_path):
    table = pd.read_csv(hippocampus / "subjects.csv").query("labelled == 1")
    chosen = table.groupby("split").head(8).query("split in ['train', 'test']")
    source = some_of(hippocampus, tmp_path / "Dataset004_Hippocampus", list(chosen["scan"]))
    people = tmp_path / "subjects.csv"
    table[["scan", "subject"]].to_csv(people, index=False)
    run("prepare", source, tmp_path / "store", "--subjects", people, "--workers", 1)
    store = Store.open(tmp_path / "store")
    assert len(store.scans) == len(chosen) and all(24 <= side <= 60 for s in store.scans for side in s.shape)
    run("pretrain", tmp_path / "store", tmp_path / "run", *RUN)
    run("embed", tmp_path / "run" / "model", source / "imagesTr", "--out", tmp_path / "f.csv")
    assert len(pd.read_csv(tmp_path / "f.csv")) == len(chosen)
    evaluate(tmp_path, source, "--protocol", "voxels")
