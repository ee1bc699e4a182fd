"""Probes while a pre-training goes on, of subjects as archives name them."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdae.data.store import Store
from mdae.data.tables import read_table
from mdae.errors import ConfigError, DataError
from mdae.evaluation.online.probe import Labelled
from mdae.evaluation.online.watching import labelled_scans, watching
from mdae.evaluation.probing.targets import Target
from mdae.training.loop import pretrain
from mdae.training.run import open_run
from tests.conftest import short_run

HALF = {"val_fraction": 0.84, "val_every": 2, "steps": 4}  # ten of twelve are held out


def labels(store: Path, folder: Path, **columns) -> Path:
    """A table of the store's subjects, each column by a function of its place."""
    subjects = sorted({scan.subject for scan in Store.open(store).scans})
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", *columns])
        writer.writerows([[name, *(of(i) for of in columns.values())] for i, name in enumerate(subjects)])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def many(named_store, tmp_path_factory) -> Path:
    """Twice as many subjects: the second contrast of each counts as somebody else."""
    path = tmp_path_factory.mktemp("many") / "store"
    shutil.copytree(named_store, path)
    opened = Store.open(path)
    scans = [
        replace(scan, subject=f"{scan.subject}{'b' * (scan.contrast == 'FLAIR')}", contrast="MR")
        for scan in opened.scans
    ]
    (path / "manifest.jsonl").unlink()
    opened.scans = []
    opened.write_manifest(scans)
    return path


def test_a_probe_and_the_scanner_are_told_at_each_validation(many, tmp_path, caplog):
    options = {"val_fraction": 0.6, "val_every": 2, "steps": 4}
    parts = open_run(short_run(many, tmp_path / "run", **options)).parts
    held_out = sorted(name for name, part in parts.items() if part == "val")
    order = [*held_out, *sorted(parts.keys() - set(held_out))]
    place = {name: order.index(name) for name in parts}
    names = sorted(parts)
    table = labels(
        many,
        tmp_path,
        diagnosis=lambda i: ("CN", "MCI")[place[names[i]] % 2],
        scanner=lambda i: ("Prisma", "Skyra")[place[names[i]] // 2 % 2],
    )
    config = short_run(many, tmp_path / "run", **options, probe=table, label="diagnosis")
    pretrain(config, watching)
    for name in ("probe", "site"):
        found = rows(tmp_path / "run" / f"{name}.csv")
        assert [row["step"] for row in found] == ["2", "4"]
        assert all(0 <= float(row["low"]) <= float(row["auroc"]) <= float(row["high"]) <= 1 for row in found)
        assert ("looks_since_best" in found[0]) is (name == "probe"), "a scanner is not wanted to be told"


def test_that_it_has_stopped_rising_is_said_after_a_resume_too(named_store, tmp_path, caplog):
    table = labels(named_store, tmp_path, age=lambda i: 60.5 + i)
    config = short_run(named_store, tmp_path / "run", **HALF, probe=table, label="age")
    (tmp_path / "run").mkdir()
    earlier = "".join(f"{step},0.999,0.99,1,0\r\n" for step in (-3, -2, -1, 0))
    (tmp_path / "run" / "probe.csv").write_text(f"step,pearson_r,low,high,looks_since_best\r\n{earlier}")
    pretrain(config, watching)
    assert (
        caplog.text.count("the probe of age has not risen for 5 looks; its best Pearson's r was 0.999") == 1
    )


def test_only_those_held_out_are_judged_and_one_scan_a_subject_is_taken(named_store, tmp_path):
    run = open_run(short_run(named_store, tmp_path / "run", **HALF))
    path = labels(named_store, tmp_path, age=lambda i: 60.5 + i)
    found = labelled_scans(run, read_table(path), "age", path)
    assert len(found.scans) == len({scan.subject for scan in found.scans}) == 12
    assert len({scan.contrast for scan in found.scans}) == 1
    assert all(
        (run.parts[s.subject] == "val") == (p == "test")
        for s, p in zip(found.scans, found.parts, strict=True)
    )


def test_what_is_told_is_found_and_what_is_not_is_not():
    class Scan:
        def __init__(self, subject):
            self.subject = subject

    rng = np.random.default_rng(0)
    parts = np.array(["train"] * 40 + ["test"] * 40)
    y = np.tile([0, 1], 40)
    scans = [Scan(f"siteA/sub-{i:02d}") for i in range(80)]
    labelled = Labelled(scans, Target(y, ("CN", "AD")), parts)
    noise = rng.normal(size=(80, 6))
    told = noise + 3 * y[:, None]
    assert labelled.judge(told, 0).low > 0.8
    assert labelled.judge(noise, 0).low < 0.5 < labelled.judge(noise, 0).high
    leaked = noise.copy()
    leaked[:40] += 3 * y[:40, None]  # in those trained on alone
    assert labelled.judge(leaked, 0).low < 0.6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "diagnosis"}, r"subjects of diagnosis \w+ are held out, and the probe needs 5"),
        ({"label": "sex"}, "no column 'sex'"),
        ({}, "no label, and no column of sites"),
        ({"label": "diagnosis", "val_fraction": 0.0}, "nobody is held out"),
    ],
)
def test_what_makes_no_probe_is_refused_before_the_first_step(named_store, tmp_path, changes, said):
    table = labels(named_store, tmp_path, diagnosis=lambda i: "AD" if i % 2 else "CN")
    options = {**HALF, "val_fraction": 0.2, **changes}
    with pytest.raises(DataError, match=said):
        pretrain(short_run(named_store, tmp_path / "run", **options, probe=table), watching)
    assert not (tmp_path / "run" / "train.csv").exists()


def test_a_probe_without_validations_is_refused():
    with pytest.raises(ConfigError, match="val_every is 0"):
        short_run(Path("store"), Path("run"), val_every=0, probe=Path("labels.csv"), label="age")
    with pytest.raises(ConfigError, match="without a table"):
        short_run(Path("store"), Path("run"), label="age")


def test_voxels_are_told_where_there_are_masks(cohort, store, tmp_path):
    """The made-up cohort has masks of its lesions; here everybody gets one of the bright voxels instead."""
    opened, folder = Store.open(store), tmp_path / "masks"
    folder.mkdir()
    for scan in opened.scans:
        if scan.contrast == "T1w":
            image = nib.load(scan.source)
            data = np.asarray(image.dataobj)
            mask = (data > np.quantile(data, 0.9)).astype(np.uint8)
            nib.save(
                nib.Nifti1Image(mask, image.affine), folder / f"sub-{scan.subject}_label-bright_mask.nii.gz"
            )
    config = short_run(
        store, tmp_path / "run", steps=2, val_every=2, val_fraction=0.5, masks=folder, contrasts=("T1w",)
    )
    pretrain(config, watching)
    (row,) = rows(tmp_path / "run" / "voxels.csv")
    assert 0.3 < float(row["low"]) <= float(row["dice"]) <= float(row["high"]) <= 1
    (folder / "stray.nii.gz").write_bytes(b"")
    for path in sorted(folder.glob("sub-*"))[:6]:
        path.unlink()
    with pytest.raises(DataError, match="subjects with masks"):
        pretrain(short_run(store, tmp_path / "other", val_every=2, val_fraction=0.5, masks=folder), watching)
