"""Intervals over subjects and draws: by hand, and holding the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate
from mdae.evaluation.statistics.intervals import Estimate
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
