"""Masks learned from a few: in two folders or as nnU-Net has them, and written where the scan's affine says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine, voxel_sizes

import mdae
from mdae.data.intensity import ZScore
from mdae.data.io import Scan, write_nifti
from mdae.data.mask_names import mask_name
from mdae.data.native import denormalise
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.errors import ConfigError, DataError, ModelError
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.statistics.overlap import dice
from mdae.inference.config import PredictConfig
from mdae.inference.masks import FittedMasks
from mdae.inference.predict import predict
from mdae.networks.saved import overlap, save_model
from mdae.options import AugmentOptions
from mdae.progress import Progress
from tests.evaluation.segment import made

READOUT = FewLabelOptions(steps=0, points=100)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_case(
    folder: Path, number: int, image: Path, mask: Path, values: tuple[int, ...] = (0, 2, 4)
) -> None:
    """A made-up subject in LPS voxels, its two organs labelled 2 and 4."""
    prepared, labels = made.scan(number, affine=LPS)
    data = prepared.data[::-1, ::-1] * prepared.record.std + prepared.record.mean
    write_nifti(folder / image, np.ascontiguousarray(data, dtype=np.float32), LPS)
    write_nifti(folder / mask, np.array(values, dtype=np.uint8)[labels], LPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model; scans and masks of four subjects under a clinic's names; what was fitted on them; three new scans."""
    folder = tmp_path_factory.mktemp("masks")
    save_model(folder / "model", made.model())
    for number in range(4):
        name = f"Müller-{number} T1"
        write_case(folder, number, Path(f"scans/{name}.nii.gz"), Path(f"masks/{name}_seg.nii.gz"))
    for number in range(7, 10):
        write_case(folder, number, Path(f"new/P{number}.nii.gz"), Path(f"truth/P{number}.nii.gz"))
    mdae.fit(folder / "model", folder / "masks", folder / "fitted", scans=folder / "scans", few=READOUT)
    return folder


def say(folder: Path, *scans: Path, **changes: object):
    options = {"model": str(folder / "fitted"), "out": folder / "out", "workers": 1, **changes}
    return predict(PredictConfig(scans=scans or (folder / "new",), **options))


def test_four_masks_and_two_commands_segment_new_scans(folder):
    table = say(folder, probabilities=True).table
    for name in table["scan"]:
        found, truth = (nib.load(folder / place / f"{name}.nii.gz") for place in ("out", "truth"))
        assert np.array_equal(found.affine, truth.affine) and found.get_data_dtype() == np.uint8
        called, wanted = np.asarray(found.dataobj), np.asarray(truth.dataobj)
        assert set(np.unique(called)) <= {0, 2, 4}
        assert all(dice(called == value, wanted == value) > 0.6 for value in (2, 4))
        shares = [
            nib.load(folder / "out" / f"{name}_probability-{own}.nii.gz") for own in ("background", "label_4")
        ]
        assert ((shares[1].get_fdata() > 0.5) <= (called == 4)).all() and (
            folder / "out" / f"{name}.png"
        ).exists()
        row = table[table["scan"] == name].iloc[0]
        assert row["label_2_ml"] == pytest.approx((called == 2).sum() / 1000)
    parts = pd.read_csv(folder / "out" / "parts.csv")
    assert set(parts["scan"]) == set(table["scan"]) and set(parts["label"]) == {"label_2", "label_4"}


def test_what_is_to_be_expected_is_told_without_an_interval_of_four(folder):
    model = mdae.load_fitted(folder / "fitted")
    assert 0.5 < model.expected["dice"]["value"] <= 1 and model.expected["dice"]["low"] is None
    assert "4 subjects are too few for an interval" in model.about["expected"]["how"]
    said = model.predict(folder / "scans" / "Müller-1 T1.nii.gz")
    assert "the model was fitted on this very scan" in said.warnings
    for path in (folder / "fitted").iterdir():
        assert b"ller" not in path.read_bytes()
    subjects = model.about["fitted_on"]["subjects"]
    known = [name for name in ("Müller-1 T1", "Müller-1", "P8") if overlap(subjects, [name])]
    assert known and "P8" not in known and subjects["scrypt"] >= 2**12


def test_fine_tuning_tells_what_to_expect_by_its_own_folds(folder, tmp_path, monkeypatch):
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(Progress, "update", lambda self, done, note="": told.append((done, note)))
    few = FewLabelOptions(steps=2, batch=1, looks=1, points=60, overlap=0.0, augment=AugmentOptions())
    model = mdae.fit(folder / "model", folder / "masks", tmp_path / "out", scans=folder / "scans", few=few)
    assert "2-fold" in model.about["expected"]["how"] and "chose the step" in model.about["expected"]["how"]
    notes = model.about["expected"]["scores"]
    assert notes["dice"]["value"] == pytest.approx(model.segmenter.notes["best_dice"])
    assert set(notes) == {"dice", "dice_label_2", "dice_label_4"} and model.segmenter.held_out.shape == (4, 2)
    assert any(done == 2 and "fold" in note for done, note in told), "how far it is can be seen"


def test_python_says_what_the_command_writes(folder, tmp_path):
    found = mdae.load_fitted(folder / "fitted").predict(folder / "new" / "P8.nii.gz")
    say(folder, folder / "new" / "P8.nii.gz", out=tmp_path)
    found.save(tmp_path / "own.nii.gz")
    assert (tmp_path / "own.nii.gz").read_bytes() == (tmp_path / "P8.nii.gz").read_bytes()


def test_it_goes_on_where_it_was_stopped_and_names_what_fails(folder, tmp_path, monkeypatch):
    scans = shutil.copytree(folder / "new", tmp_path / "new")
    (scans / "P7.nii.gz").write_bytes((scans / "P7.nii.gz").read_bytes()[:900])
    done = say(folder, scans, out=tmp_path / "out")
    assert len(done.table) == 2 and "gzip" in done.set_aside["reason"][0]
    masks = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    (tmp_path / "out" / "P9.nii.gz").unlink()
    again = say(folder, scans, out=tmp_path / "out")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    assert after["P8.nii.gz"] == masks["P8.nii.gz"] and after["P9.nii.gz"] > masks["P9.nii.gz"]
    pd.testing.assert_frame_equal(again.table, done.table)
    with pytest.raises(DataError, match="masks go into a folder"):
        say(folder, scans, out=tmp_path / "out.csv")


def test_an_nnunet_data_set_keeps_its_labels_names_and_unlabelled_voxels(folder, tmp_path):
    raw = tmp_path / "Dataset007_Organs"
    for number in range(3):
        write_case(
            raw,
            number,
            Path(f"imagesTr/c{number}_0000.nii.gz"),
            Path(f"labelsTr/c{number}.nii.gz"),
            (0, 1, 2),
        )
    labels = {"background": 0, "left": 1, "right organ": 2, "ignore": 3}
    about = {"channel_names": {"0": "T1w"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(about))
    image = nib.load(raw / "labelsTr" / "c0.nii.gz")
    data = np.asarray(image.dataobj).copy()
    data[:, :4] = 3
    write_nifti(raw / "labelsTr" / "c0.nii.gz", data, image.affine)
    model = mdae.fit(folder / "model", raw, tmp_path / "out", few=READOUT, bundle=True)
    assert model.about["labels"] == {"names": ["background", "left", "right_organ"], "values": [0, 1, 2]}
    assert model.contrasts == ("T1w",) and (tmp_path / "out" / "encoder" / "config.json").exists()
    pd.DataFrame({"scan": ["c0", "c1", "c2"], "subject": ["a", "a", "b"]}).to_csv(
        tmp_path / "who.csv", index=False
    )
    people = mdae.fit(folder / "model", raw, tmp_path / "two", few=READOUT, subjects=tmp_path / "who.csv")
    assert people.about["fitted_on"]["num_subjects"] == 2 and "2-fold" in people.about["expected"]["how"]
    found = mdae.load_fitted(tmp_path / "out").predict(folder / "new" / "P8.nii.gz")
    truth = np.asarray(nib.load(folder / "truth" / "P8.nii.gz").dataobj)
    assert dice(found.labels == 1, truth == 2) > 0.6 and set(found.volumes_ml) == {"left", "right_organ"}


def test_one_labelled_subject_works_and_says_how_little_it_tells(folder, tmp_path):
    shutil.copytree(
        folder / "masks", tmp_path / "masks", ignore=lambda *_: [f"Müller-{n} T1_seg.nii.gz" for n in "123"]
    )
    model = mdae.fit(
        folder / "model", tmp_path / "masks", tmp_path / "out", scans=folder / "scans", few=READOUT
    )
    assert model.expected == {} and "one labelled subject tells nothing" in model.about["expected"]["how"]
    assert model.predict(folder / "new" / "P9.nii.gz").labels.any()


def test_what_does_not_do_has_its_line(folder, tmp_path):
    with pytest.raises(DataError, match="name the scans with --scans"):
        mdae.fit(folder / "model", folder / "masks", tmp_path / "o")
    with pytest.raises(DataError, match=r"none of 4 masks has the name of one of 3 scans"):
        mdae.fit(folder / "model", folder / "masks", tmp_path / "o", scans=folder / "new")
    with pytest.raises(ConfigError, match="no voxels of histogram"):
        mdae.fit("histogram", folder / "masks", tmp_path / "o", scans=folder / "scans")
    shutil.copytree(folder / "fitted", tmp_path / "a" / "fitted")
    with pytest.raises(ModelError, match="say where it is with --encoder"):
        mdae.load_fitted(tmp_path / "a" / "fitted")
    assert mdae.load_fitted(tmp_path / "a" / "fitted", encoder=folder / "model").kind == "segmentation"
    about = json.loads((folder / "fitted" / "fitted.json").read_text())
    for change in ({"labels": {"values": [0, 1]}}, {"segmenter": {}}, {"contrasts": []}, {"expected": 3}):
        (tmp_path / "a" / "fitted" / "fitted.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ModelError):
            mdae.load_fitted(tmp_path / "a" / "fitted", encoder=folder / "model")


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("P1_seg.nii.gz", "P1"),
        ("case-mask.nii", "case"),
        ("sub-01_ses-1_T1w_label-lesion_roi.nii.gz", "sub-01_ses-1_T1w"),
        ("sub-01_desc-manual_dseg.nii.gz", "sub-01"),
        ("hippocampus_001_0000.nii.gz", "hippocampus_001"),
        ("segmentation_of_x.nii.gz", "segmentation_of_x"),
    ],
)
def test_a_masks_name_tells_its_scan(name, scan):
    assert mask_name(Path(name)) == scan


class Bright:
    """In the place of a segmenter: what is bright is the label."""

    labels = ("background", "ball")

    def probabilities(self, scans):
        bright = np.clip(denormalise(scans[0].data, scans[0].record) / 100 - 1, 0, 1)
        return np.stack([1 - bright, bright])


ANGLE = np.deg2rad(12)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.diag([-1.0, -1.0, 1.0]),
        TURN,
        np.diag([1.0, 1.0, 4.0]),
        TURN[[2, 0, 1]] @ np.diag([0.8, -1.2, 2.5]),
    ],
    ids=["RAS", "LPS", "oblique", "thick", "permuted oblique thick"],
)
def test_masks_land_where_the_affine_says(matrix):
    """A ball drawn in world millimetres is found there, within half a voxel, whatever the scan's grid."""
    affine = np.eye(4)
    spacing = np.linalg.norm(matrix, axis=0)
    shape = tuple(int(56 / step) for step in spacing)
    affine[:3, :3], affine[:3, 3] = matrix, -matrix @ (np.array(shape) - 1) / 2 + [3.0, -20.0, 11.0]
    middle = np.array([6.0, -25.0, 14.0])
    world = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    away = np.linalg.norm(world - middle, axis=-1)
    data = (100 + 100 / (1 + np.exp(away - 11)) + np.random.default_rng(0).normal(0, 1, shape)).astype(
        np.float32
    )
    contract = Preprocessing(crop="none", intensity=ZScore("box"))
    prepared = prepare_scan(Scan(data, affine, Path("ball.nii.gz")), contract)
    about = {"labels": {"values": [0, 7]}, "fitted_on": {"scans": {"salt": "", "hashes": []}}}
    found = FittedMasks(Bright(), Encoder(made.model()), about).segment([prepared])
    assert found.labels.shape == shape and set(np.unique(found.labels)) == {0, 7}
    place = apply_affine(found.affine, np.argwhere(found.labels == 7)).mean(axis=0)
    off = np.abs(np.linalg.solve(matrix, place - middle))
    assert (off < 0.5).all(), off
    assert dice(found.labels == 7, data > 150) > 0.95
    assert (
        voxel_sizes(found.affine) == pytest.approx(spacing)
    ) and found.seen.shape == found.seen_labels.shape
