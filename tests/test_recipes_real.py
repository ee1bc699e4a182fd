"""Recipes on real scans: AUROC over people and seeds, degraded scans, and every part end to end on made-up crops."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mdae.data.store import Store
from mdae.evaluation.statistics.intervals import weighted_auroc
from mdae.seeding import numpy_generator
from recipes import (
    contrasts,
    contrasts_page,
    few_labels,
    lidc,
    lidc_page,
    robustness,
    robustness_page,
    transfer,
)
from recipes.areas import Rows
from recipes.lidc_labels import Question, asked

PARTS = {"train": 8, "val": 4, "test": 12}  # patients, half of them malignant


@pytest.fixture(scope="module")
def nodules(tmp_path_factory) -> Path:
    """A data set of nodules as `recipes.lidc` takes it: thin crops, two nodules of some patients."""
    root, rng, rows = tmp_path_factory.mktemp("nodules"), numpy_generator(0, "nodules"), []
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    patients = [part for part, number in PARTS.items() for _ in range(number)]
    for number, part in enumerate(patients):
        for nodule in range(1 + number % 2):
            scan, bright = f"LIDC-{number:04d}_R_{nodule}", number // 2 % 2
            shape = (30, 28, (2, 5, 9)[number % 3])
            x, y, z = np.indices(shape)
            inside = (x - 14) ** 2 + (y - 13) ** 2 + (3 * (z - shape[2] / 2)) ** 2 < 36
            data = rng.normal(-800, 40, shape) + inside * (500 + 300 * bright)
            affine = np.diag([0.7, 0.7, 2.5, 1.0])
            image = nib.Nifti1Image(data.astype(np.int16), affine)
            nib.save(image, root / "imagesTr" / f"{scan}_0000.nii.gz")
            nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), root / "labelsTr" / f"{scan}.nii.gz")
            marks = {"malignant": bright, "solid": bright, "spiculation": 1 + bright}
            about = {"scan": scan, "subject": f"LIDC-{number:04d}", "split": part}
            rows.append({**about, "diameter_mm": 8 + rng.uniform(0, 4), **marks})
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}}
    (root / "dataset.json").write_text(
        json.dumps({**about, "numTraining": len(rows), "file_ending": ".nii.gz"})
    )
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root


def test_an_area_is_over_people_and_seeds():
    rng = numpy_generator(0, "areas")
    labels = np.repeat(np.arange(15) % 2.0, 4)
    people = np.array([f"A{number // 4:04d}" for number in range(60)])
    scores = labels + rng.normal(0, 1, (3, 60))
    rows, alone = Rows(labels, people), Rows(labels, np.arange(60).astype(str))
    expected = np.mean([weighted_auroc(labels, own, np.ones((1, 60)))[0] for own in scores])
    assert rows.area(scores).value == pytest.approx(expected)
    same, p = rows.difference(scores, scores)
    assert (same.value, same.low, same.high, p) == (0.0, 0.0, 0.0, 1.0)
    copied = np.repeat(scores[:1, ::4], 4, axis=1)  # four rows of a person say no more than one
    assert rows.area(copied).low < alone.area(copied).low
    one, many = alone.difference(scores[:1], -scores[:1])[0], alone.difference(scores, -scores[:1])[0]
    assert one.low < many.value and many.high - many.low > 0


def test_features_that_say_nothing_leave_the_diameter_as_it_is():
    rng = numpy_generator(1, "beside")
    number = 100
    malignant = np.arange(number) % 2
    table = pd.DataFrame({"scan": [f"n{i:03d}" for i in range(number)], "malignant": malignant})
    table = table.assign(
        subject=table.scan, diameter_mm=np.exp(2 + 0.5 * malignant + rng.normal(0, 0.3, number))
    )
    table = table.assign(split=["train"] * 50 + ["val"] * 10 + ["test"] * 40).set_index("scan", drop=False)
    noise = rng.normal(0, 1, (number, 60))
    question = Question("malignant", with_diameter=True)
    beside, size = (asked(question, table, x) for x in (noise, np.log(table[["diameter_mm"]].to_numpy())))
    assert len(beside) == 40 and set(beside.index) == set(table.scan[60:])
    rows = Rows(question.labels(table.loc[beside.index]), beside.index.to_numpy())
    lost = rows.difference(beside.to_numpy()[None], size.to_numpy()[None])[0].value
    assert abs(lost) < 0.08
    drowned = asked(Question("malignant"), table, np.hstack([noise, np.log(table[["diameter_mm"]])]))
    assert rows.difference(drowned.to_numpy()[None], size.to_numpy()[None])[0].value < lost
    other = asked(Question("malignant", diameter_mm=(8.0, 12.0), folds=True), table, noise)
    assert set(other.index) == set(table.scan[table.diameter_mm.between(8, 12)])


def test_noise_and_larger_voxels_are_of_their_strength_and_the_grid_stays():
    rng = numpy_generator(0, "scan")
    data = 100 + 10 * rng.standard_normal((24, 25, 26)).astype(np.float32)
    noisy = robustness.rician(data, 0.5, numpy_generator(0, "noise"))
    assert (noisy - data).std() == pytest.approx(5.0, rel=0.05) and noisy.min() >= 0
    dark = robustness.rician(np.where(data > 1e9, data, 0) + (data > 115), 1.0, numpy_generator(0, "noise"))
    assert dark[data < 115].mean() > 0.1, "the magnitude of noise in air is not 0 on average"
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], data.shape)
    coarse = robustness.coarser(ramp, np.array([1.0, 1.0, 1.0]), 3.0)
    assert coarse.shape == data.shape and np.abs(coarse - ramp)[4:-4].max() < 0.2, "nothing moves"
    spread = [robustness.coarser(data, np.ones(3), wanted).std() for wanted in robustness.VOXELS_MM.values()]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 3
    assert np.allclose(robustness.coarser(data, np.array([3.0, 3.0, 3.0]), 3.0), data, atol=1e-3)


def test_a_row_of_all_cases_becomes_one_a_degradation():
    cases = {robustness.whose(name, how): [0.1] for how in robustness.DEGRADED for name in ("s1", "s2")}
    key = dict(zip(few_labels.KEY, (2, "mdae", 1000, 0, "alone", "4", 0), strict=True))
    rows = robustness.by_degradation(
        pd.DataFrame({**key, "dice": [0.3], "s1": [0.8], "s2": [0.6], **cases}), ["s1", "s2"]
    )
    assert len(rows) == 7 and list(rows.columns) == [*few_labels.KEY, "dice", "s1", "s2"]
    found = robustness_page.Degradations(rows)
    assert found.values("mdae", "4", "clean").tolist() == [[[0.8, 0.6]]]
    assert found.lost("mdae", "4", "noise 1") == pytest.approx(np.array([[[-0.7, -0.5]]]))


def test_one_seed_is_never_sure_of_a_loss():
    rows = []
    for seed, (name, after) in itertools.product((0, 1), (("mdae", 0.2), ("mae", 0.6))):
        for draw, how in itertools.product(range(2), ("clean", *robustness.DEGRADED)):
            key = (few_labels.VERSION, name, 1000, seed, robustness.readout_of("alone", how), "4", draw)
            dice = 0.7 if how == "clean" else after
            own = {f"A{person:04d}": dice + 0.01 * (person % 3) + 0.002 * draw for person in range(8)}
            rows.append(dict(zip(few_labels.KEY, key, strict=True)) | {"dice": dice} | own)
    two = pd.DataFrame(rows)
    two.loc[two.seed == 1, [name for name in two.columns if name.startswith("A0")]] += 0.003
    first, second = (robustness_page.Degradations(own) for own in (two[two.seed == 0], two))
    unsure, sure = (robustness_page.lost_table(own, "4") for own in (first, second))
    assert "**-0.400**" in sure and "-0.400" in unsure and "**" not in unsure
    assert robustness_page.dice_table(second, "4").splitlines()[2].startswith("| MDAE | 2 | 0.711")
    apart = two.assign(seed=two.seed + (two.encoder == "mae"))  # MDAE's 0 and 1, MAE's 1 and 2
    paired = robustness_page.lost_table(robustness_page.Degradations(apart), "4")
    assert paired.splitlines()[2].startswith("| MDAE | 1 |"), "by seed, not by order"


@pytest.mark.slow
def test_nodules_are_asked_everything_and_lend_their_weights(nodules, tmp_path, monkeypatch):
    for module in (lidc, lidc_page):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "lidc")
    monkeypatch.setattr(transfer, "RESULTS", tmp_path / "transfer")
    options = [
        "--steps",
        "2",
        "--seeds",
        "1",
        "--sizes",
        "2",
        "--draws",
        "2",
        "--encoders",
        "untrained",
        "mdae",
    ]
    monkeypatch.setattr("sys.argv", ["lidc", str(tmp_path / "out"), "--data", str(nodules), *options])
    lidc.main()
    found = pd.read_csv(tmp_path / "lidc" / "labels.csv").set_index(["question", "encoder"])
    assert {encoder for _, encoder in found.index} == {
        *("diameter", "crop volume", "histogram", "untrained", "mdae", "cnn")
    }
    assert found.value["solid", "histogram"] > 0.9 > found.value["stratum", "diameter"]
    assert found.nodules["stratum-folds", "mdae"] == 36 and found.patients["malignant", "mdae"] == 12
    rows = few_labels.read_rows(tmp_path / "lidc" / "masks.csv")
    assert len(rows) == 2 * (len(lidc.MASK_BASELINES) + 2 * 2) and rows.dice.between(0, 1).all()
    assert len([name for name in rows.columns if name.startswith("LIDC-")]) == 12, "by patient"
    options = ["--steps", "2", "--seeds", "1", "--sizes", "2", "--draws", "2", "--encoders", "mdae"]
    given = {"hippocampus": tmp_path / "out", "lidc": tmp_path / "out"}
    given |= {"data-lidc": nodules, "data-hippocampus": nodules}
    words = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    shutil.copy(tmp_path / "out" / "subjects.csv", nodules / "subjects.csv")
    monkeypatch.setattr("sys.argv", ["transfer", str(tmp_path / "moved"), *words, *options])
    transfer.main()
    moved = few_labels.read_rows(tmp_path / "transfer" / "lidc.csv")
    home = rows[(rows.encoder == "mdae") & (rows.readout == "alone")]
    assert np.allclose(moved[moved.readout == "alone"].dice, home.dice, atol=2e-3), "weights are unchanged"


@pytest.mark.slow
def test_tissues_are_segmented_in_a_contrast_that_pretraining_never_saw(tmp_path, monkeypatch):
    for module in (contrasts, contrasts_page):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(contrasts, "PRETRAINED_ON", 4)
    monkeypatch.setattr(contrasts, "PARTS", {"train": 2, "val": 2, "test": 5})
    options = ["--steps", "2", "--seeds", "2", "--sizes", "1", "2", "--draws", "2"]
    options += ["--encoders", "untrained", "mdae", "--readouts", "alone"]
    monkeypatch.setattr("sys.argv", ["contrasts", str(tmp_path / "out"), *options])
    contrasts.main()
    seen = Store.open(tmp_path / "out" / "store")
    assert {scan.contrast for scan in seen.scans} == {"T1w", "T2w"} and len(seen.scans) == 8
    for contrast in ("t2w", "flair"):
        rows = few_labels.read_rows(tmp_path / "results" / f"{contrast}.csv")
        assert len(rows) == 4 * (len(few_labels.BASELINES) + 2 * 2)
        assert rows.dice.between(0, 1).all()
    rows = {name: few_labels.read_rows(tmp_path / "results" / f"{name}.csv") for name in ("t2w", "flair")}
    assert not np.allclose(rows["t2w"].dice, rows["flair"].dice), "each in its own scans"
    shown = contrasts_page.all_tables()["contrasts-flair-alone"]
    assert [line[: len("| untrained | 2 |")] for line in shown.splitlines()][-1] == "| untrained | 2 |"
