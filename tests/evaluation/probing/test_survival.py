"""Cox's regression finds the likelihood's own maximum; concordance is what its definition counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from mdae.errors import DataError
from mdae.evaluation.probing.cross_validation import cross_validate
from mdae.evaluation.probing.survival import COX, baseline_hazard, fit_cox
from mdae.evaluation.statistics.survival import concordance, survival_scores
from mdae.seeding import numpy_generator


def study(number: int, *, features: int = 4, seed: int = 0, effect: float = 1.0, step: float = 0.05):
    """Exponential times, coarse enough to tie, a third of them lost; the first feature is the risk."""
    rng = numpy_generator(seed, "survival")
    x = rng.standard_normal((number, features))
    ends = rng.exponential(np.exp(-effect * x[:, 0]))
    lost = rng.exponential(np.exp(-effect * x[:, 0]) * 2)
    times = np.ceil(np.minimum(ends, lost) / step) * step
    return x, np.where(ends <= lost, times, -times)


def naive_loss(w, x, times, strength):
    odds = (x - x.mean(0)) / x.std(0) @ w
    terms = [
        np.log(np.exp(odds[np.abs(times) >= time]).sum()) - own
        for own, time in zip(odds, times, strict=True)
        if time > 0
    ]
    return sum(terms) / len(x) + w @ w / (2 * strength * len(x))


@pytest.mark.parametrize("strength", [0.01, 10.0])
def test_cox_is_the_maximum_of_the_penalised_partial_likelihood(strength):
    x, times = study(50)
    wanted = minimize(naive_loss, np.zeros(4), args=(x, times, strength)).x
    np.testing.assert_allclose(fit_cox(x, times, strength).weights[0], wanted, atol=2e-4)


def test_more_features_than_subjects_are_no_hindrance():
    x, times = study(30, features=200)
    risks = fit_cox(x, times, 1e-3)(x)
    x[:, 3] = 7.0  # tells nobody from another
    assert np.isfinite(fit_cox(x, times, 1e-3)(x)).all()
    assert np.isfinite(risks).all() and concordance(times, risks, np.ones((1, 30)))[0] > 0.9


def test_the_baseline_hazard_is_breslows():
    times = np.array([1.0, -2.0, 3.0, 3.0, -0.5, -4.0])
    ends, hazard = baseline_hazard(times, np.zeros(6))  # of equal risks: Nelson and Aalen's
    assert ends.tolist() == [1, 3] and hazard == pytest.approx([1 / 5, 1 / 5 + 2 / 3])


def test_concordance_counts_pairs_whose_order_is_known():
    times = np.array([1.0, 2.0, -1.5, 2.0, -2.0])
    risks = np.array([3.0, 2.0, 5.0, 2.0, 1.0])
    # known: 0 before 1, 2, 3, 4 (three right); 1 and 3 before 4, who was lost then (right); tied ends know nothing
    assert concordance(times, risks, np.ones((1, 5)))[0] == pytest.approx(5 / 6)
    twice = np.array([[1.0, 1, 2, 1, 1]])
    assert concordance(times, risks, twice)[0] == pytest.approx(5 / 7)
    assert np.isnan(concordance(-np.abs(times), risks, np.ones((1, 5)))[0])


def test_folds_are_on_one_scale_and_a_risk_is_found():
    x, times = study(80, effect=1.5)
    names = np.array([f"P{i}" for i in range(80)])
    scored = cross_validate(COX, x, times, names, folds=4, repeats=1)
    whole = np.ones((1, 80))
    assert concordance(times, scored.scores, whole)[0] > concordance(times, x[:, 0], whole)[0] - 0.08
    figure = survival_scores(times, scored.scores, names)["concordance"]
    assert figure.low > 0.5 and figure.high < 1 and 0.05 < figure.high - figure.low < 0.25


def test_few_events_have_their_line():
    x, times = study(20)
    with pytest.raises(DataError, match="0 subjects with the event"):
        survival_scores(-np.abs(times), x[:, 0], np.arange(20).astype(str))
