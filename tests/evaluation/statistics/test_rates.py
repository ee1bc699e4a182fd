"""Balanced accuracy and its limits, against scikit-learn and SciPy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from mdae.evaluation.statistics.rates import balanced_accuracy
from mdae.seeding import numpy_generator


def wilson(right: int, number: int, dof: float) -> tuple[float, float]:
    """SciPy's limits, at the confidence that the normal distribution has where Student's has 95 %."""
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, dof)) - 1
    found = stats.binomtest(right, number).proportion_ci(level, method="wilson")
    return found.low, found.high


@pytest.mark.parametrize("number", [2, 3])
def test_the_mean_of_rates_has_the_limits_that_are_recovered_from_wilsons(number):
    labels = np.repeat(np.arange(number), [6, 40, 11][:number])
    called = numpy_generator(0, "called").permutation(labels)
    called[:4] = 0
    found = balanced_accuracy(labels, called, np.arange(len(labels)))
    assert found.value == pytest.approx(balanced_accuracy_score(labels, called))
    right = [int((called[labels == k] == k).sum()) for k in range(number)]
    sizes = np.bincount(labels)
    limits = np.array([wilson(r, int(n), 5) for r, n in zip(right, sizes, strict=True)])
    arms = np.sqrt(((limits - (right / sizes)[:, None]) ** 2).sum(axis=0)) / number
    assert (found.low, found.high) == pytest.approx((found.value - arms[0], found.value + arms[1]))


def test_a_perfect_one_is_not_certain_and_more_scans_or_refits_are_no_more_subjects():
    labels, names = np.repeat([1, 0], [5, 200]), np.arange(205)
    once = balanced_accuracy(labels, labels, names)
    assert once.value == once.high == 1 and 0.6 < once.low < 0.85
    thrice = balanced_accuracy(np.tile(labels, 3), np.tile(labels, 3), np.tile(names, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert balanced_accuracy(labels, labels, names, widening=1.5).low < once.low - 0.05


@pytest.mark.parametrize(("positive", "negative"), [(5, 5), (5, 200), (20, 100)])
def test_intervals_cover_what_they_say(positive, negative):
    labels, names = np.repeat([1, 0], [positive, negative]), np.arange(positive + negative)
    for truth in (0.65, 0.82, 0.9):
        covered = 0
        for repeat in range(300):
            right = numpy_generator(repeat, "rates", positive, negative).random(len(labels)) < truth
            found = balanced_accuracy(labels, np.where(right, labels, 1 - labels), names)
            covered += found.low <= truth <= found.high
        assert covered / 300 >= 0.92, truth
