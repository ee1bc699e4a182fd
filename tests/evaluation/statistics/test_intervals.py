"""Figures and their intervals, against scikit-learn and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import (
    SHARE,
    Estimate,
    auroc,
    average_precision,
    bootstrap_estimate,
    class_sizes,
    cross_validation_widening,
    degrees_of_freedom,
    stretched_estimate,
    subject_weights,
    weighted_auroc,
    weighted_average_precision,
)
from mdae.seeding import numpy_generator


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.integers(1, 6))
def test_equal_scikit_learn_with_ties_and_weights(seed, number, levels):
    rng = numpy_generator(seed, "test")
    labels = np.r_[0, 1, rng.integers(0, 2, number - 2)]
    scores = rng.integers(0, levels, number).astype(float)
    weights = np.stack([np.ones(number), rng.integers(1, 4, number)])
    areas, precisions = (
        weighted_auroc(labels, scores, weights),
        weighted_average_precision(labels, scores, weights),
    )
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        repeated = np.repeat(np.arange(number), row.astype(int))
        assert area == pytest.approx(roc_auc_score(labels[repeated], scores[repeated]))
        assert precision == pytest.approx(average_precision_score(labels[repeated], scores[repeated]))


def test_scans_of_a_subject_are_drawn_together():
    subjects = np.repeat([f"s{i}" for i in range(12)], 3)
    labels = np.repeat(np.arange(12) % 2, 3)
    weights = subject_weights(subjects, labels, seed=0, replicates=50)
    assert (weights.reshape(50, 12, 3).std(axis=2) == 0).all()
    assert (weights[:, labels == 1].sum(axis=1) == 18).all()


def test_intervals_cover_what_they_say():
    """Scores of two normals a distance apart have a known AUROC; 95 % intervals hold it about as often."""
    truth, covered = 0.7602, 0  # of two unit normals one apart: Phi(1 / sqrt 2)
    for repeat in range(300):
        rng = numpy_generator(repeat, "coverage")
        labels = np.arange(100) % 2
        scores = rng.standard_normal(100) + labels
        found = auroc(labels, scores, np.arange(100), seed=repeat)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_more_scans_of_the_same_subjects_do_not_narrow_the_interval():
    labels = np.arange(40) % 2
    scores = numpy_generator(0, "x").standard_normal(40) + labels
    once = auroc(labels, scores, np.arange(40))
    thrice = auroc(np.tile(labels, 3), np.tile(scores, 3), np.tile(np.arange(40), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.02)


def test_a_widened_interval_stays_possible():
    wide = Estimate(0.9, 0.8, 0.97).widened(2.0)
    assert (wide.value, wide.low, wide.high) == pytest.approx((0.9, 0.7, 1.0))
    assert Estimate(0.1, 0.02, 0.2).widened(2.0).low == 0.0
    assert Estimate(-0.9, -0.97, -0.5).widened(2.0, bounds=(-1.0, 1.0)).low == -1.0
    assert cross_validation_widening(5) == pytest.approx(1.5)


def test_too_few_subjects_are_refused():
    labels = np.array([1] * 4 + [0] * 30)
    with pytest.raises(DataError, match="a class has 4 subjects"):
        average_precision(labels, labels.astype(float), np.arange(34))


def test_degrees_of_freedom_are_the_smaller_classs_where_it_dominates():
    assert degrees_of_freedom((12,)) == pytest.approx(11)
    assert degrees_of_freedom((20, 20)) == pytest.approx(38), "equal classes count both"
    assert degrees_of_freedom((5, 200)) == pytest.approx(4.2, abs=0.05)
    assert degrees_of_freedom((5, 200)) == degrees_of_freedom((200, 5)) > 4
    assert 4 < degrees_of_freedom((5, 200, 200)) < degrees_of_freedom((5, 10, 10))


def test_the_error_of_a_bootstrap_is_that_of_a_sample():
    """A bootstrap of n divides by n where n - 1 is right: of five numbers its variance is a fifth too small."""
    values = np.array([0.2, 0.4, 0.5, 0.6, 0.8])
    rng = numpy_generator(0, "five")
    weights = rng.multinomial(5, np.full(5, 0.2), 40_000).astype(float)
    found = bootstrap_estimate(lambda w: w @ values / w.sum(axis=1), weights, (5,))
    right = stretched_estimate(0.5, values.std(ddof=1) / np.sqrt(5), scale=SHARE, dof=4, perfect=0.0)
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=0.004)


def test_a_subject_of_several_classes_is_drawn_in_the_highest():
    subjects, labels = np.repeat(np.arange(18), 2), np.repeat(np.arange(18) % 3, 2)
    labels[0] = 1  # the first changes from class 1 to 0
    assert class_sizes(subjects, labels) == (6, 7, 5)
    weights = subject_weights(subjects, labels, seed=0, replicates=40)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    groups = [np.flatnonzero((np.arange(18) % 3 == k) & (np.arange(18) > 0)) for k in range(3)]
    groups[1] = np.r_[0, groups[1]]
    assert all((weights[:, ::2][:, own].sum(axis=1) == len(own)).all() for own in groups)


def test_where_every_subject_has_rows_of_both_classes_all_are_drawn_alike():
    """Patients of whom each has a malignant nodule: there was no interval, for a class had 0 subjects."""
    subjects, labels = np.repeat(np.arange(20), 3), np.tile([0.0, 0.0, 1.0], 20)
    assert class_sizes(subjects, labels) == (20, 20)
    weights = subject_weights(subjects, labels, seed=0, replicates=40)
    assert (weights.sum(axis=1) == 60).all() and (weights[:, ::3] == weights[:, 2::3]).all()
    scores = labels + numpy_generator(0, "both").standard_normal(60)
    found = auroc(labels, scores, subjects)
    assert found.low < found.value < found.high
    few = np.repeat(np.arange(4), 15)
    with pytest.raises(DataError, match="a class has 4 subjects"):
        auroc(labels, scores, few)
