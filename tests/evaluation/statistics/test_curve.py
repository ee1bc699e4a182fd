"""Intervals over subjects and draws: by hand, and holding the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate, pseudo_values
from mdae.evaluation.statistics.intervals import SIZE, Estimate, auroc, weighted_auroc
from mdae.seeding import numpy_generator


def test_one_draw_is_an_interval_over_subjects():
    values = numpy_generator(0, "dice").uniform(0.4, 0.9, (1, 30))
    found, p = curve_difference(values, np.zeros_like(values))
    assert p < 1e-6 and curve_difference(values, values) == (Estimate(0.0, 0.0, 0.0), 1.0)
    error = values.std(ddof=1) / np.sqrt(30)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 2.0452 * error, rel=1e-3)


def test_it_holds_the_truth_in_95_percent():
    """Subjects and draws both vary: with either left out the interval would hold it too seldom."""
    held = []
    for study in range(400):
        rng = numpy_generator(study, "study")
        subjects, draws = 0.05 * rng.standard_normal(20), 0.03 * rng.standard_normal((5, 1))
        found = curve_estimate(0.7 + subjects + draws + 0.02 * rng.standard_normal((5, 20)))
        held.append(found.low <= 0.7 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_seeds_are_drawn_anew_as_well():
    values = numpy_generator(0, "dice").uniform(0.4, 0.9, (1, 1, 30)) + np.zeros((2, 4, 1))
    values[1] += 0.1
    alone, both = curve_estimate(values[:1]), curve_estimate(values)
    assert both.value == pytest.approx(alone.value + 0.05) and both.high - both.low > 3 * (
        alone.high - alone.low
    )
    estimate, p = curve_difference(values, values - 0.1)
    assert estimate.value == pytest.approx(0.1) and p < 1e-3, "what seeds share is no error of a difference"


def test_widening_is_of_the_error_over_subjects_alone():
    rng = numpy_generator(1, "dice")
    of_subjects, of_draws = rng.uniform(0.6, 0.7, (1, 30)), rng.uniform(0.6, 0.7, (30, 1))
    for values, wider in ((of_subjects + np.zeros((4, 1)), 1.5), (of_draws + np.zeros((1, 6)), 1.0)):
        (once, _), (more, _) = (curve_difference(values, 0 * values, widening=w) for w in (1.0, 1.5))
        assert more.high - more.value == pytest.approx(wider * (once.high - once.value))


def test_figures_that_nobody_has_count_for_nothing():
    values = np.array([[0.5, np.nan, 0.7], [0.6, np.nan, np.nan]])
    assert curve_estimate(values).value == pytest.approx(0.6)


def test_pseudo_values_mean_the_figure_and_spread_as_it_errs():
    rng = numpy_generator(3, "auroc")
    labels = np.r_[np.zeros(60, int), np.ones(25, int)]
    scores = rng.standard_normal(85) + labels
    people = np.array([f"Müller-{n:02d}" for n in range(85)])
    values = pseudo_values(lambda w: weighted_auroc(labels, scores, w), people)
    assert values.mean() == pytest.approx(weighted_auroc(labels, scores, np.ones((1, 85)))[0], abs=1e-12)
    own = curve_estimate(values[None], classes=(25, 60))
    other = auroc(labels, scores, people)
    assert own.low == pytest.approx(other.low, abs=0.01) and own.high == pytest.approx(other.high, abs=0.01)
    few = curve_estimate(values[None], classes=(5, 80))
    assert few.low < own.low and few.high > own.high, "the smaller class decides"


def test_rows_of_a_person_are_left_out_together():
    numbers = np.array([1.0, 3.0, 5.0, 11.0])
    people = np.array(["anna", "anna", "ben", "carla"])
    values = pseudo_values(lambda w: w @ numbers / w.sum(axis=1), people)
    assert np.isnan(values).tolist() == [False, True, False, False]
    without = np.array([8.0, 5.0, 3.0])  # the means of the others' rows
    assert values[[0, 2, 3]] == pytest.approx(3 * 5.0 - 2 * without)


def test_a_difference_of_numbers_is_not_cut_at_one():
    rng = numpy_generator(4, "days")
    apart, _ = curve_difference(20 + rng.standard_normal((1, 30)), np.zeros((1, 30)), scale=SIZE)
    assert apart.low > 19 and apart.high > 20
