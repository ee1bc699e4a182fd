"""DeLong, Holm and differences: against published numbers, slow definitions, and by simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from mdae.evaluation.statistics.intervals import Estimate, degrees_of_freedom, furthest_from_perfect
from mdae.evaluation.statistics.tests import delong, delong_covariance, difference_test, holm
from mdae.seeding import numpy_generator

# Ovarian cancer with intestinal obstruction (DeLong, DeLong and Clarke-Pearson 1988): albumin, total protein, K-G
# score, survived; the 43 complete patients of SAS/STAT's guide, "Comparing Receiver Operating Characteristic Curves".
TABLE = """
    3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1
    3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0
    4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1
    4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1
    2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
"""
PATIENTS = np.array(TABLE.split(), dtype=float).reshape(-1, 4)
ALBUMIN, PROTEIN, SCORE, SURVIVED = PATIENTS[:, 0], PATIENTS[:, 1], 10 - PATIENTS[:, 2], PATIENTS[:, 3]


DOF = degrees_of_freedom([int((value == SURVIVED).sum()) for value in (1, 0)])


def as_published(estimate: Estimate, p: float) -> tuple[float, ...]:
    """A difference, its interval and p as the normal distribution has them, which publications take."""
    arm = (estimate.high - estimate.value) * norm.ppf(0.975) / t.ppf(0.975, DOF)
    return estimate.value, estimate.value - arm, estimate.value + arm, 2 * norm.sf(t.isf(p / 2, DOF))


def test_delong_gives_the_published_areas_errors_and_p():
    areas, covariance = delong_covariance(SURVIVED, np.stack([ALBUMIN, SCORE, PROTEIN]))
    assert areas == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1028, 0.1000], abs=5e-5)
    found = as_published(*delong(SURVIVED, ALBUMIN, SCORE))
    assert found == pytest.approx((0.0108, -0.1761, 0.1976, 0.9102), abs=5e-5)
    found = as_published(*delong(SURVIVED, PROTEIN, SCORE))
    assert found == pytest.approx((-0.0780, -0.2830, 0.1271, 0.4561), abs=6e-5)


def structural_components(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, pair by pair: V10 (m,) and V01 (n,)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive])
    return wins.mean(axis=1), wins.mean(axis=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12), st.integers(2, 30))
def test_delong_equals_the_structural_components_with_ties(seed, m, n, levels):
    rng = numpy_generator(seed, "delong")
    labels = rng.permutation(np.r_[np.ones(m), np.zeros(n)])
    scores = rng.integers(0, levels, (3, m + n)).astype(float)
    areas, covariance = delong_covariance(labels, scores)
    v10, v01 = (
        np.stack(parts) for parts in zip(*(structural_components(labels, s) for s in scores), strict=True)
    )
    assert areas == pytest.approx(v10.mean(axis=1))
    assert covariance == pytest.approx(np.cov(v10) / m + np.cov(v01) / n)


def test_several_rows_of_a_person_say_no_more_than_one():
    """Copies of all rows change neither the difference nor, if they are told to be of the same people, its interval."""
    people = np.arange(len(SURVIVED))
    thrice = [np.tile(own, 3) for own in (SURVIVED, PROTEIN, SCORE)]
    plain, p = delong(SURVIVED, PROTEIN, SCORE)
    found, weaker = delong(*thrice, people=np.tile(people, 3))
    assert found.value == pytest.approx(plain.value) and weaker == pytest.approx(p, rel=0.1)
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.05)
    counted, sure = delong(*thrice)
    assert counted.high - counted.low < 0.7 * (plain.high - plain.low) and sure < p


def test_of_people_with_rows_of_both_classes_intervals_hold_the_truth():
    held, repeats = 0, 400
    for repeat in range(repeats):
        rng = numpy_generator(repeat, "people")
        people = np.repeat(np.arange(40), 3)
        labels = rng.integers(0, 2, 120).astype(float)
        hard = rng.normal(0, 1.5, 40)[people] * np.where(labels, 1, -1)  # for the first of two equals
        one = labels + hard + rng.normal(0, 1, 120)
        other = labels + rng.normal(0, np.sqrt(1 + 1.5**2), 120)
        estimate, _ = delong(labels, one, other, people=people)
        held += estimate.low <= 0 <= estimate.high
    assert 0.91 < held / repeats < 0.99


def test_an_encoder_does_not_differ_from_itself():
    estimate, p = delong(SURVIVED, ALBUMIN, ALBUMIN)
    assert (estimate.value, estimate.low, estimate.high, p) == (0, 0, 0, 1)
    assert delong(SURVIVED, ALBUMIN, np.exp(3 * ALBUMIN))[1] == 1  # nor from its order


def test_no_spread_is_not_certainty():
    labels = np.r_[np.ones(6), np.zeros(9)]
    perfect, constant = labels + np.linspace(0, 0.5, 15), np.ones(15)
    estimate, p = delong(labels, perfect, constant)
    assert estimate.value == 0.5 and p == pytest.approx(2 * 0.5**6)
    assert estimate.low == pytest.approx(0.5 - furthest_from_perfect(6))
    both, p = delong(labels, perfect, labels)
    assert both.value == 0 and p == 1 and both.low < -0.4 and both.high > 0.4


def test_a_difference_stays_possible():
    estimate, _ = difference_test(0.9, 0.3, fewest=10)
    assert (estimate.low, estimate.high) == (pytest.approx(0.9 - 1.959964 * 0.3), 1.0)
    wide, _ = difference_test(0.1, 0.1, fewest=5, dof=4, bound=np.inf)
    assert wide.high == pytest.approx(0.1 + 2.776445 * 0.1)


def test_widening_lengthens_the_interval_and_weakens_p():
    plain, p = delong(SURVIVED, PROTEIN, SCORE)
    wide, weaker = delong(SURVIVED, PROTEIN, SCORE, widening=1.5)
    assert wide.high - wide.value == pytest.approx(1.5 * (plain.high - plain.value))
    assert t.isf(weaker / 2, DOF) == pytest.approx(t.isf(p / 2, DOF) / 1.5)


def two_encoders(
    rng: np.random.Generator, m: int, n: int, first: float, second: float
) -> tuple[np.ndarray, ...]:
    """Labels, and normal scores of two true AUROCs with correlation one half."""
    labels, noise = np.r_[np.ones(m), np.zeros(n)], rng.standard_normal((3, m + n))
    effects = np.sqrt(2) * norm.ppf([first, second])
    scores = np.sqrt(0.5) * (noise[:1] + noise[1:]) + effects[:, None] * labels
    return labels, *scores


@pytest.mark.parametrize(
    "m, n, first, second",
    [(40, 40, 0.7, 0.7), (60, 60, 0.85, 0.75), (20, 80, 0.8, 0.8), (10, 400, 0.9, 0.7)],
)
def test_delong_intervals_hold_the_truth(m, n, first, second):
    held = 0
    for repeat in range(1000):
        estimate, _ = delong(*two_encoders(numpy_generator(repeat, "pairs", m), m, n, first, second))
        held += estimate.low <= first - second <= estimate.high
    assert 0.93 <= held / 1000 <= 0.98


# -- Holm -----------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A hypothesis falls only if every intersection that it is in falls (Marcus, Peritz and Gabriel 1976)."""
    number = len(p_values)
    sets = [s for size in range(1, number + 1) for s in combinations(range(number), size)]
    closed = [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in range(number)
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_holm_holds_the_family_wise_error_where_nothing_differs():
    """Six tasks of the same subjects; raw p errs in a quarter of the tables, Holm's in at most a twentieth."""
    raw = adjusted = 0
    for repeat in range(600):
        rng = numpy_generator(repeat, "family")
        p = [delong(*two_encoders(rng, 30, 30, 0.75, 0.75))[1] for _ in range(6)]
        raw += min(p) < 0.05
        adjusted += min(holm(p)) < 0.05
    assert raw / 600 > 0.18 and adjusted / 600 < 0.07
