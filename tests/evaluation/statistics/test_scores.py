"""Every figure against scikit-learn, MONAI or a slow loop, and every interval against a truth that is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import ROCAUCMetric
from scipy.special import expit
from scipy.stats import norm, pearsonr
from sklearn import metrics as sk

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import (
    CORRELATION,
    EXPLAINED,
    SHARE,
    SIZE,
    auroc,
    bootstrap_estimate,
    class_sizes,
    furthest_from_perfect,
    subject_weights,
)
from mdae.evaluation.statistics.scores import (
    classification_figures,
    classification_scores,
    mean_scores,
    regression_figures,
    regression_scores,
    weighted_calibration_error,
)
from mdae.seeding import numpy_generator

REFERENCES: dict[str, Callable] = {
    "auroc": lambda y, s, p: sk.roc_auc_score(y, s),
    "average_precision": lambda y, s, p: sk.average_precision_score(y, s),
    "balanced_accuracy": lambda y, s, p: sk.balanced_accuracy_score(y, s > 0),
    "f1": lambda y, s, p: sk.f1_score(y, s > 0),
    "brier": lambda y, s, p: sk.brier_score_loss(y, p),
}


def made_up(rng: np.random.Generator, number: int, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with both classes, scores with ties, and probabilities."""
    labels = np.r_[0, 1, rng.integers(0, 2, number - 2)].astype(float)
    scores = rng.integers(0, levels, number) - levels / 2 + labels
    return labels, scores, expit(0.5 * scores)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.integers(1, 12))
def test_classification_equals_scikit_learn_with_ties_and_repeated_rows(seed, number, levels):
    rng = numpy_generator(seed, "scores")
    labels, scores, probabilities = made_up(rng, number, levels)
    weights = np.stack([np.ones(number), rng.integers(1, 4, number)])
    figures = classification_figures(labels, scores, probabilities)
    for row, repeats in enumerate(weights.astype(int)):
        y, s, p = (np.repeat(values, repeats) for values in (labels, scores, probabilities))
        for name, reference in REFERENCES.items():
            assert figures[name](weights)[row] == pytest.approx(reference(y, s, p)), name


def test_auroc_equals_monai():
    labels, scores, _ = made_up(numpy_generator(0, "scores"), 60, 1000)
    metric = ROCAUCMetric()
    metric(torch.from_numpy(scores), torch.from_numpy(labels))
    assert auroc(labels, scores, np.arange(60)).value == pytest.approx(metric.aggregate())


def slow_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """ECE over ten bins of as many rows, in the order of the probabilities."""
    order = sorted(range(len(labels)), key=lambda i: probabilities[i])
    quotient, rest = divmod(len(labels), 10)
    error, start = 0.0, 0
    for number in range(10):
        rows = order[start : start + quotient + (number < rest)]
        start += len(rows)
        if rows:
            said, true = (sum(values[i] for i in rows) / len(rows) for values in (probabilities, labels))
            error += len(rows) / len(labels) * abs(said - true)
    return error


@pytest.mark.parametrize("number", [7, 10, 64, 205])
def test_calibration_error_equals_a_slow_loop(number):
    labels, _, _ = made_up(numpy_generator(number, "scores"), number, 4)
    probabilities = numpy_generator(number, "p").random(number)
    found = weighted_calibration_error(labels, probabilities, np.ones((1, number)))[0]
    assert found == pytest.approx(slow_calibration_error(labels, probabilities))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 40))
def test_regression_equals_scikit_learn(seed, number):
    rng = numpy_generator(seed, "scores")
    labels, scores = rng.normal(60, 10, number), rng.normal(60, 10, number)
    weights = np.stack([np.ones(number), rng.integers(1, 4, number)])
    figures = regression_figures(labels, scores)
    for row, repeats in enumerate(weights.astype(int)):
        y, s = np.repeat(labels, repeats), np.repeat(scores, repeats)
        assert figures["mae"](weights)[row] == pytest.approx(sk.mean_absolute_error(y, s))
        assert figures["r2"](weights)[row] == pytest.approx(sk.r2_score(y, s))
        assert figures["pearson_r"](weights)[row] == pytest.approx(pearsonr(y, s)[0])


def test_means_leave_out_subjects_without_a_figure():
    values = np.r_[np.linspace(0.5, 0.9, 9), np.nan]
    found = mean_scores({"dice": values}, np.arange(10))["dice"]
    assert found.value == pytest.approx(0.7) and 0.5 < found.low < 0.7 < found.high < 0.9


@pytest.mark.parametrize("scale, value", [(SHARE, 0.8), (SIZE, 4.0), (EXPLAINED, -0.3), (CORRELATION, -0.6)])
def test_scales_are_their_own_way_back(scale, value):
    assert scale.shrink(scale.stretch(value)) == pytest.approx(value)
    step = 1e-6
    slope = (scale.stretch(value + step) - scale.stretch(value - step)) / (2 * step)
    assert scale.slope(value) == pytest.approx(slope, rel=1e-5)


def test_intervals_stay_within_the_range_and_hold_the_value():
    labels, scores, probabilities = made_up(numpy_generator(3, "scores"), 24, 30)
    names = np.arange(24)
    found = classification_scores(labels, scores, probabilities, names, widening=3.0)
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in found.values())
    found = regression_scores(labels, scores, names, widening=3.0)
    assert found["mae"].low > 0 and found["r2"].high < 1 and found["pearson_r"].low > -1
    assert all(e.low < e.value < e.high for e in found.values())


def test_a_perfect_score_has_an_interval_too():
    """All of six disjoint pairs in order has the probability AUROC^6, so 0.541 is the least that is not refuted."""
    labels = np.r_[np.ones(6), np.zeros(20)]
    found = auroc(labels, labels, np.arange(26))
    assert (found.value, found.high) == (1, 1) and found.low == pytest.approx(0.025 ** (1 / 6))
    assert auroc(labels, labels, np.arange(26), widening=1.5).low < found.low
    assert auroc(labels, -labels, np.arange(26)).high == pytest.approx(1 - 0.025 ** (1 / 6))
    assert furthest_from_perfect(1000) < 0.005
    numbers = np.arange(12.0)
    opposite = regression_scores(numbers, -numbers, np.arange(12))["pearson_r"]
    assert (opposite.value, opposite.low, opposite.high) == (-1, -1, -1), "no range to stretch"


def test_r_squared_of_six_has_an_interval_that_json_can_hold():
    """Draws of nearly one label alone have an R squared of minus thousands."""
    labels, scores = (
        np.array([3.0, 3.001, 3.002, 3.003, 3.004, 9.0]),
        np.array([4.0, 2.0, 3.0, 5.0, 1.0, 7.0]),
    )
    found = regression_scores(labels, scores, np.arange(6))["r2"]
    assert -1e23 < found.low < found.value < found.high <= 1


def test_too_few_are_refused():
    with pytest.raises(DataError, match="4 subjects"):
        regression_scores(np.arange(4.0), np.arange(4.0), np.arange(4))


# -- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m, n, truth", [(20, 20, 0.7), (50, 50, 0.85), (20, 80, 0.7)])
def test_auroc_intervals_hold_the_truth(m, n, truth):
    held, labels, names = 0, np.r_[np.ones(m), np.zeros(n)], np.arange(m + n)
    weights = subject_weights(names, labels, seed=0, replicates=400)  # the draws do not depend on the scores
    effect = np.sqrt(2) * norm.ppf(truth)
    for repeat in range(800):
        scores = numpy_generator(repeat, "coverage", m, n).standard_normal(m + n) + effect * labels
        figure = classification_figures(labels, scores, np.empty(0))["auroc"]
        found = bootstrap_estimate(figure, weights, class_sizes(names, labels))
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 800 <= 0.97


@pytest.mark.parametrize("m, n, truth", [(5, 200, 0.75), (5, 200, 0.9), (200, 5, 0.75), (10, 300, 0.9)])
def test_intervals_of_unequal_classes_hold_the_truth(m, n, truth):
    """Where the number of all subjects was taken for the degrees of freedom they held it in 80 to 90 %."""
    held, labels, names = 0, np.r_[np.ones(m), np.zeros(n)], np.arange(m + n)
    weights = subject_weights(names, labels, seed=0, replicates=150)
    effect = np.sqrt(2) * norm.ppf(truth)
    for repeat in range(400):
        scores = numpy_generator(repeat, "unequal", m, n).standard_normal(m + n) + effect * labels
        figure = classification_figures(labels, scores, np.empty(0))["auroc"]
        found = bootstrap_estimate(figure, weights, class_sizes(names, labels))
        held += found.low <= truth <= found.high
    assert held / 400 >= 0.915, held


@pytest.mark.parametrize("classes", [5, 10])
def test_auroc_intervals_near_1_of_few_subjects_hold_the_truth(classes):
    """Where percentiles held it in a third to two thirds of the studies; here they may be too long, never too short."""
    held, truth, number = 0, 0.97, 2 * classes
    labels, names = np.arange(number) % 2, np.arange(number)
    for repeat in range(200):
        rng = numpy_generator(repeat, "few", classes)
        scores = rng.standard_normal(number) + np.sqrt(2) * norm.ppf(truth) * labels
        found = auroc(labels, scores, names, seed=repeat)
        held += found.low <= truth <= found.high
    assert held / 200 >= 0.94


def test_dice_intervals_hold_the_truth():
    """Dice of 20 subjects, skewed as it is: Beta(8, 2), mean 0.8."""
    held, names = 0, np.arange(20)
    for repeat in range(500):
        values = {"dice": numpy_generator(repeat, "dice").beta(8, 2, 20)}
        found = mean_scores(values, names, seed=repeat)["dice"]
        held += found.low <= 0.8 <= found.high
    assert 0.93 <= held / 500 <= 0.97
