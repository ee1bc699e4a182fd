"""The probe of voxels: a readout of coarse maps is a readout of features, nobody tests on himself, grids meet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.nnunet.labels import found_labels
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.results.schema import Evaluation
from mdae.evaluation.voxel_probe import voxels
from mdae.evaluation.voxel_probe.features import features_at, read_out
from mdae.evaluation.voxel_probe.readout import (
    OUTSIDE,
    Points,
    Subject,
    best_threshold,
    draw_points,
    fit_readout,
    segment,
)
from mdae.networks import ResidualUNet, preset
from mdae.networks.saved import SavedModel
from mdae.seeding import torch_generator
from mdae.tasks.catalogue import find_task
from mdae.tasks.layouts import read_cases
from tests.evaluation.nnunet import made

SUBJECTS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return made.dataset(tmp_path_factory.mktemp("voxels"), SUBJECTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return made.model(tmp_path_factory.mktemp("voxels") / "run" / "model")


@pytest.fixture(scope="module")
def run(data, model) -> Callable[..., Evaluation]:
    def run(out: Path, **changes: object) -> Evaluation:
        options = {"encoder": str(model), "task": (str(data),), "protocol": "voxels", "folds": 2, "out": out}
        (evaluation,) = evaluate(EvaluateConfig(**{**options, "device": "cpu", **changes}))  # type: ignore[arg-type]
        return evaluation

    return run


@pytest.fixture(scope="module")
def evaluation(run, tmp_path_factory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("results")
    return run(out), out


def encoder(patch: tuple[int, int, int] = (16, 16, 16)) -> Encoder:
    network = ResidualUNet(preset("tiny").network, generator=torch_generator(0, "weights"))
    return Encoder(SavedModel(network, Preprocessing(), patch, provenance={}))


def subject_of(data: Path, which: int, encoder: Encoder) -> Subject:
    case = read_cases("nnunet", data)[which]
    return voxels._load(case, encoder, made.CHANNELS)


# -- features and readouts ----------------------------------------------------------------------------------------


def test_features_at_voxels_are_the_maps_upsampled():
    own = encoder()
    volume = np.random.default_rng(0).standard_normal((16, 16, 16)).astype(np.float32)
    every = np.stack(np.indices(volume.shape), axis=-1).reshape(-1, 3)
    with torch.no_grad():
        stages = own.network(torch.from_numpy(volume)[None, None])
    maps = [F.interpolate(stage, size=volume.shape, mode="trilinear") for stage in stages]
    expected = torch.cat(maps, dim=1)[0].flatten(1).T.numpy()
    np.testing.assert_allclose(features_at(own, volume, 0.0, every), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 11)])
def test_reading_out_maps_is_reading_out_features_wherever_one_window_sees_a_voxel(shape):
    own, rng = encoder(), np.random.default_rng(1)
    volume = rng.standard_normal(shape).astype(np.float32)
    weights = rng.standard_normal((2, own.num_features))
    every = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    expected = (features_at(own, volume, -1.0, every) @ weights.T).T.reshape(2, *shape)
    alone = np.r_[0:8, 16:24] if shape[0] == 24 else np.r_[0:16]  # windows begin at 0 and 8
    found = read_out(own, volume, -1.0, weights)
    np.testing.assert_allclose(found[:, alone], expected[:, alone], rtol=1e-3, atol=1e-3)


def test_a_voxel_is_seen_in_a_window_that_holds_it_though_windows_are_no_cubes():
    own = encoder((16, 16, 8))
    volume = np.zeros((16, 16, 32), dtype=np.float32)
    volume[:, :, 8:16] = np.random.default_rng(1).standard_normal((16, 16, 8))
    whole = features_at(own, volume, 0.0, np.array([[0, 0, 18], [0, 0, 31]]))
    np.testing.assert_array_equal(whole[0], whole[1])  # of windows that are empty, not of the one before them
    assert np.any(whole[0] != features_at(own, volume, 0.0, np.array([[0, 0, 15]]))[0])


def test_the_threshold_is_the_one_with_the_best_weighted_dice():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
    weights = rng.uniform(1, 50, 60)

    def agreement(threshold: float) -> float:
        called = scores >= threshold
        return 2 * weights[called & labels].sum() / (weights[called].sum() + weights[labels].sum())

    best = best_threshold(scores, labels, weights)
    assert agreement(best) == pytest.approx(max(agreement(value) for value in scores))


def test_a_line_finds_what_is_linear_and_never_calls_what_it_never_saw():
    rng = np.random.default_rng(3)
    values = np.array([0, 1] * 200)
    x = rng.standard_normal((400, 5)) + 3 * values[:, None] * np.array([1, 0, 0, 0, 0])
    points = [Points({"T1w": x}, values, np.ones(400))]
    readout = fit_readout(points, ["T1w"], found_labels({0, 1, 2}))
    odds = x @ readout.weights.T + readout.biases
    assert ((odds[:, 0] >= readout.thresholds[0]) == (values == 1)).mean() > 0.9
    assert readout.thresholds[1] == np.inf and not readout.weights[1].any()


# -- subjects -----------------------------------------------------------------------------------------------------


def test_points_stand_for_all_voxels_and_lie_where_the_mask_says(data, model, monkeypatch):
    own = Encoder.load(model)
    subject = subject_of(data, 0, own)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(encoder: Encoder, volume: np.ndarray, background: float, points: np.ndarray) -> np.ndarray:
        seen.append((volume, points))
        return np.zeros((len(points), 1), dtype=np.float32)

    monkeypatch.setattr("mdae.evaluation.voxel_probe.readout.features_at", spy)
    drawn = draw_points(own, subject, 400, np.random.default_rng(0))
    for value in (1, 2):
        there = int((subject.mask == value).sum())
        assert drawn.stand_for[drawn.values == value].sum() == pytest.approx(there)
    assert abs((drawn.values == 0).sum() - 200) <= 1
    record, (volume, points) = subject.scans["T1w"].record, seen[0]
    source = np.asarray(nib.load(record.source).dataobj)  # of equal spacing, so a point is a voxel
    world = nib.affines.apply_affine(np.array(record.affine), points)
    voxel = nib.affines.apply_affine(np.linalg.inv(np.array(record.source_affine)), world).round().astype(int)
    assert np.array_equal(subject.mask[tuple(voxel.T)], drawn.values)
    z = (source[tuple(voxel.T)] - record.mean) / record.std
    np.testing.assert_allclose(volume[tuple(points.round().astype(int).T)], z.clip(-5, 10), atol=1e-4)


def test_all_modalities_together_are_the_sum_of_their_parts(data, model):
    own = Encoder.load(model)
    subject = subject_of(data, 1, own)
    points = [draw_points(own, subject, 200, np.random.default_rng(0))]
    scheme = found_labels({0, 1, 2})
    views = {"T1w": ("T1w",), "FLAIR": ("FLAIR",), "all": made.CHANNELS}
    readouts = {view: fit_readout(points, names, scheme) for view, names in views.items()}
    together, width = readouts["all"], own.num_features
    for place, name in enumerate(made.CHANNELS):  # as if each were alone, without the bias
        part = together.weights[:, place * width : (place + 1) * width]
        readouts[name] = replace(readouts[name], weights=part, biases=np.zeros(2))
    odds = segment(own, subject, readouts, views)
    assert odds["all"].shape == (2, *subject.mask.shape)
    held = odds["T1w"].min(axis=0) > OUTSIDE / 2
    total = odds["T1w"] + odds["FLAIR"] + together.biases[:, None, None, None]
    np.testing.assert_allclose(odds["all"][:, held], total[:, held], atol=1e-3)


def test_figures_of_a_subject_by_hand():
    rng = np.random.default_rng(4)
    scheme = replace(found_labels({0, 1, 2}), ignore=9)
    mask = rng.choice([0, 1, 9], size=(6, 6, 6))
    odds = rng.standard_normal((2, 6, 6, 6))
    found = voxels.score_voxels(odds, np.array([0.3, np.inf]), mask, scheme, (1.0, 1.0, 1.0))
    counted = mask != 9
    called, there = odds[0][counted] >= 0.3, mask[counted] == 1
    assert found["dice_label_1"] == pytest.approx(2 * (called & there).sum() / (called.sum() + there.sum()))
    assert found["average_precision_label_1"] == average_precision_score(there, odds[0][counted])
    assert found["dice_label_2"] == 1.0 and np.isnan(found["average_precision_label_2"]), "it is nowhere"
    assert found["dice"] == pytest.approx((found["dice_label_1"] + 1) / 2)
    assert found["average_precision"] == found["average_precision_label_1"]


# -- the whole ----------------------------------------------------------------------------------------------------


def test_every_subject_is_scored_once_in_every_view(data, evaluation):
    result, out = evaluation
    assert [one.modality for one in result.results] == ["T1w", "FLAIR", "all"]
    for one in result.results:
        assert sorted(one.subjects) == [f"case_{n:02d}" for n in range(1, SUBJECTS + 1)]
        assert {"dice", "dice_outer", "nsd_deep", "average_precision"} <= one.scores.keys()
        assert one.scores["dice"].low <= one.scores["dice"].value <= one.scores["dice"].high
    flair, together = (result.results[i].scores["average_precision"].value for i in (1, 2))
    masks = [np.asarray(nib.load(case.mask).dataobj) for case in read_cases("nnunet", data)]
    by_chance = np.mean([[(mask == value).mean() for value in (1, 2)] for mask in masks])
    assert min(flair, together) > 4 * by_chance, "lesions are bright in FLAIR"
    (cell, *_) = read_results([out])
    assert cell.protocol == "voxels" and len(cell.values["dice"]) == SUBJECTS
    assert "NaN" not in next(out.glob("*.json")).read_text()


def test_repeated_it_comes_out_the_same(evaluation, run, tmp_path):
    result, _ = evaluation
    again = run(tmp_path)
    assert json.dumps(again.to_dict()) == json.dumps(result.to_dict())


def test_nobody_is_learned_from_and_scored(data, model, run, tmp_path, monkeypatch):
    folds: list[tuple[set[int], list[str]]] = []
    original = voxels._Study.trial

    def spy(self, learned_from, tested):
        folds.append(({id(points) for points in learned_from}, [case.subject for case in tested]))
        return original(self, learned_from, tested)

    drawn: dict[str, int] = {}
    sampled = voxels._sampled

    def watch(cohort, *rest):
        cohort, own = sampled(cohort, *rest)
        drawn.update({case.subject: id(one.points) for case, one in zip(cohort.cases, own, strict=True)})
        return cohort, own

    monkeypatch.setattr(voxels._Study, "trial", spy)
    monkeypatch.setattr(voxels, "_sampled", watch)
    run(tmp_path, modalities=("FLAIR",))
    assert len(folds) == 2 and sorted(name for _, tested in folds for name in tested) == sorted(drawn)
    for learned_from, tested in folds:
        assert not learned_from & {drawn[name] for name in tested}
        assert len(learned_from) + len(tested) == SUBJECTS


def test_a_split_tests_its_test_subjects_alone(run, tmp_path):
    rows = [f"case_{n:02d},{'train' if n <= 3 else 'test'}" for n in range(1, SUBJECTS)]
    (tmp_path / "split.csv").write_text("\n".join(["subject,split", *rows]) + "\n")
    evaluation = run(tmp_path / "out", modalities=("FLAIR",), split=tmp_path / "split.csv")
    assert evaluation.results[0].subjects == [f"case_{n:02d}" for n in range(4, SUBJECTS)]
    assert evaluation.left_out == {"not in split.csv": 1} and evaluation.results[0].refused


def test_an_unfit_subject_is_left_out_with_the_reason(data, run, tmp_path):
    other = made.dataset(tmp_path, SUBJECTS)
    path = other / "labelsTr" / "case_01.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    evaluation = run(tmp_path / "out", task=(str(other),), modalities=("T1w",))
    assert evaluation.left_out == {"T1w on another grid than the mask": 1}
    assert "case_01" not in evaluation.results[0].subjects


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"encoder": "histogram"}, ConfigError, "no voxels of histogram"),
        ({"task": ("brats18-grade",)}, ConfigError, "has no masks"),
        ({"folds": SUBJECTS + 1}, DataError, "8 subjects for 9 folds"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, tmp_path, changes, error, said):
    with pytest.raises(error, match=said) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_the_task_is_a_segmentation(data):
    assert find_task(str(data)).kind == "segmentation"
