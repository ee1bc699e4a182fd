"""Fixtures that several files share: a small made-up cohort, its store, and a model trained on it for moments."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.store import Store
from mdae.data.synth import SynthConfig, synthesise
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain

COARSE = Preprocessing(spacing_mm=(8.0, 8.0, 8.0))

torch.set_num_threads(1)  # tests are tiny: a second thread costs more than it brings


# Labels as archives have them, in the order of the made-up numbers that they stand for.
LABELS = (
    *(
        "A0001",
        "ADNI-002-S-0002",
        "BraTS-GLI-00003-000",
        "IXI004-Guys-0828",
        "Müller-05",
        "NDARINV06ABC",
        "OAS1_0007",
    ),
    *("P 0008", "TCGA-02-0009", "UPENN-GBM-00010", "s0011", "x-012"),
)


# Files that take longest, begun first, so that no process is left alone with them at the end.
LONGEST = (
    "tests/test_readme.py",
    "tests/report/test_demo.py",
    "tests/sweep/test_sweep.py",
    "tests/training/test_loop.py",
    "tests/evaluation/test_evaluate.py",
    "tests/evaluation/segment/test_evaluate.py",
    "tests/contract/test_objectives.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays on one process, as its fixtures are costly, unless its tests say otherwise; the longest go first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.location[0], len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def quick_looks() -> Iterator[None]:
    """Diagnostics look at eight crops, not at 64, which would be half of the time of a run of moments."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mdae.training.diagnostics.features.LOOKED_AT", 8)
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve made-up subjects with T1w and FLAIR, 8 mm voxels, named as archives name people."""
    out = tmp_path_factory.mktemp("cohort") / "bids"
    synthesise(SynthConfig(out=out, subjects=12, contrasts=("T1w", "FLAIR"), spacing_mm=8.0, workers=1))
    return name_people(out)


def name_people(cohort: Path) -> Path:
    """Give the people of a made-up cohort the labels of archives; in folders, files and participants.tsv."""
    people = (cohort / "participants.tsv").read_text()
    for number, label in enumerate(LABELS, start=1):
        before = f"sub-{number:04d}"
        for path in sorted(cohort.rglob(f"{before}*"), key=lambda path: -len(path.parts)):
            path.rename(path.with_name(path.name.replace(before, f"sub-{label}")))
        people = people.replace(before, f"sub-{label}")
    (cohort / "participants.tsv").write_text(people)
    return cohort


@pytest.fixture(scope="session")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort, prepared at its own spacing."""
    path = tmp_path_factory.mktemp("store") / "store"
    prepare(PrepareConfig(source=cohort, store=path, preprocessing=COARSE, workers=1))
    return path


@pytest.fixture(scope="session")
def named_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store, its subjects named as archives name theirs."""
    names = ("ADNI-002-S-{:04d}", "siteA/sub-{:02d}", "OAS3{:04d}_MR", "{}e3", "NDARINV{:04d}", "sub-{:03d}")
    path = tmp_path_factory.mktemp("named") / "store"
    shutil.copytree(store, path)
    opened = Store.open(path)
    subjects = sorted({scan.subject for scan in opened.scans})
    named = {old: names[i % len(names)].format(i) for i, old in enumerate(subjects)}
    scans = [dataclasses.replace(scan, subject=named[scan.subject]) for scan in opened.scans]
    (path / "manifest.jsonl").unlink()
    opened.scans = []
    opened.write_manifest(scans)
    return path


@pytest.fixture(scope="session")
def model(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, trained for four steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    return pretrain(short_run(store, out, steps=4))


def short_run(store: Path, out: Path, **changes: object) -> PretrainConfig:
    """A run of moments: crops of 16 voxels, checkpoints and rows often."""
    options: dict[str, object] = {
        "steps": 20,
        "batch": 2,
        "patch": (16, 16, 16),
        "val_fraction": 0.2,
        "val_every": 10,
        "picture_every": 0,
        "checkpoint_every": 4,
        "log_every": 2,
        "lr": 1e-3,
        "precision": "32",
        "accelerator": "cpu",
    }
    return PretrainConfig(store=store, out=out, **{**options, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """The folder of real scans that MDAE_TEST_DATA names."""
    folder = os.environ.get("MDAE_TEST_DATA")
    if not folder:
        pytest.skip("MDAE_TEST_DATA names no folder of real scans")
    return Path(folder)
