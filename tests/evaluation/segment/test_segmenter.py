"""The segmenter: it learns, is kept whole without a pickle, and needs what it was fitted with."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
from scipy.special import softmax

from mdae.errors import DataError, ModelError
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.fitted import stacked
from mdae.evaluation.segment.segmenter import FittedSegmenter, draw_points, fit_segmenter
from mdae.evaluation.segment.volumes import UNLABELLED, labelled
from mdae.evaluation.statistics.overlap import dice
from tests.evaluation.segment import made

READOUT = FewLabelOptions(steps=0, points=100, overlap=0.0)


@pytest.fixture(scope="module")
def fitted() -> FittedSegmenter:
    return fit_segmenter(made.subjects(3), made.model(), READOUT, made.LABELS)


def test_it_segments_subjects_that_it_has_not_seen(fitted):
    for own in made.subjects(2, first=7):
        probabilities = fitted.probabilities(own.volume)
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
        called = probabilities.argmax(axis=0)
        for label in (1, 2):
            assert dice(called == label, own.labels == label) > 0.6


def test_organs_of_one_brightness_are_told_apart_by_place_alone():
    seen, other = made.subjects(3), made.subjects(1, first=8)[0]
    fitted = fit_segmenter(seen, None, READOUT, made.LABELS)
    called = fitted.probabilities(other.volume).argmax(axis=0)
    assert all(dice(called == label, other.labels == label) > 0.6 for label in (1, 2))


def test_kept_and_read_it_is_the_same(fitted, tmp_path):
    tensors, about = fitted.state()
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    again = FittedSegmenter.from_state(
        safetensors.torch.load_file(tmp_path / "w.safetensors"), json.loads(json.dumps(about)), made.model()
    )
    volume = made.subjects(1, first=5)[0].volume
    np.testing.assert_allclose(again.probabilities(volume), fitted.probabilities(volume), atol=1e-5)
    assert again.labels == made.LABELS


@pytest.mark.parametrize("fault", ["no model", "weights", "format"])
def test_what_does_not_fit_is_refused(fitted, fault):
    tensors, about = fitted.state()
    model = None if fault == "no model" else made.model()
    if fault == "weights":
        tensors = {**tensors, "readout.weights": tensors["readout.weights"][:, :-1]}
    if fault == "format":
        about = {**about, "format": 99}
    with pytest.raises(ModelError, match="not a segmenter"):
        FittedSegmenter.from_state(tensors, about, model)


def test_a_readout_at_voxels_is_the_readout_of_the_volume(fitted):
    prepared, mask = made.scan(6, shape=(16, 16, 16))  # one window
    own = labelled("p06", prepared, mask)
    every = np.stack(np.indices(mask.shape), axis=-1).reshape(-1, 3)
    expected = softmax(fitted.readout.scores(fitted.features.at(own.volume, every)), axis=1)
    found = fitted.probabilities(prepared)
    np.testing.assert_allclose(found.reshape(3, -1).T, expected, atol=1e-3)


@pytest.mark.parametrize(("place", "intensities"), [(True, False), (False, True), (True, True)])
def test_halves_of_what_is_beside_a_network_are_read_alike_at_voxels_and_in_whole(place, intensities):
    features = VoxelFeatures(None, place=place, intensities=intensities)
    own = made.subjects(1)[0]
    every = np.stack(np.indices(own.labels.shape), axis=-1).reshape(-1, 3)
    found = features.at(own.volume, every)
    assert found.shape[1] == features.number(1)
    weights = np.random.default_rng(0).standard_normal((2, found.shape[1]))
    whole = features.linear(own.volume, weights).reshape(2, -1).T
    np.testing.assert_allclose(whole, found @ weights.T, atol=1e-3)
    moved = replace(own.volume, data=own.volume.data[:, ::-1].copy())
    mirrored = every * [-1, 1, 1] + [own.labels.shape[0] - 1, 0, 0]
    same = np.allclose(features.at(moved, mirrored), found, atol=1e-4)
    assert same == (not place), "intensities alone know nothing of the place"


def test_readouts_together_are_each_alone(fitted):
    other = fit_segmenter(made.subjects(2, first=4), made.model(), READOUT, made.LABELS, seed=1)
    volume = made.subjects(1, first=5)[0].volume
    both = stacked([replace(own, network=None) for own in (fitted, other)], made.model(), "cpu")
    for own, found in zip((fitted, other), np.split(both.scores(volume), 2), strict=True):
        np.testing.assert_allclose(found, own.scores(volume), atol=1e-3)
    assert np.abs(other.scores(volume) - fitted.scores(volume)).max() > 0.1


def test_points_stand_for_all_voxels_of_their_label(fitted):
    own = made.subjects(1)[0]
    (points,) = draw_points([own], fitted.features, 50, seed=1)
    total = np.bincount(points.labels, weights=points.stand_for)
    np.testing.assert_allclose(total, [(own.labels == label).sum() for label in range(3)])
    assert np.bincount(points.labels).tolist() == [50, 50, 50]


def test_contrasts_must_be_as_many_as_in_fitting(fitted):
    volume = made.subjects(1)[0].volume
    twice = type(volume)(np.repeat(volume.data, 2, axis=0), volume.background * 2, volume.spacing_mm)
    with pytest.raises(DataError, match="2 contrasts for a segmenter of 1"):
        fitted.probabilities(twice)


def test_nobody_or_nothing_to_learn_from_is_said(fitted):
    with pytest.raises(DataError, match="no labelled volume"):
        fit_segmenter([], None, READOUT, made.LABELS)
    own = made.subjects(1)[0]
    own.labels[:] = 0
    with pytest.raises(DataError, match="one label"):
        fit_segmenter([own], None, READOUT, made.LABELS)


def test_voxels_that_nobody_labelled_are_not_learned_from():
    own = made.subjects(1)[0]
    own.labels[own.labels == 1] = UNLABELLED
    fitted = fit_segmenter([own], None, READOUT, made.LABELS)
    assert fitted.probabilities(own.volume)[1].max() < 1e-6
