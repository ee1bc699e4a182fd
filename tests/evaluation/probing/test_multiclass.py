"""Several classes: against scikit-learn, found where they are, not where they are not, and with a class missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score

from mdae.evaluation.probing.cross_validation import cross_validate, hold_out
from mdae.evaluation.probing.estimators import logistic_model
from mdae.evaluation.probing.multiclass import NEVER, against_rest, lines_of, macro_area, multiclass
from mdae.seeding import numpy_generator


def three(effect: float, number: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three unequal classes, of which each has a feature of its own."""
    labels = np.repeat([0, 1, 2], [number // 2, number // 3, number - number // 2 - number // 3])
    x = numpy_generator(0, "three").standard_normal((number, 6))
    x[np.arange(number), labels] += effect
    return x, labels, np.arange(number)


def test_quality_is_the_macro_one_against_rest_area():
    rng = numpy_generator(1, "area")
    labels, logits = np.arange(50) % 3, rng.standard_normal((50, 3))
    expected = roc_auc_score(labels, softmax(logits, axis=1), multi_class="ovr", average="macro")
    assert macro_area(labels, against_rest(logits)) == pytest.approx(expected)
    assert macro_area(np.zeros(5, int), logits[:5]) == 0.5
    odds = softmax(logits, axis=1) / (1 - softmax(logits, axis=1))
    assert np.allclose(against_rest(logits), np.log(odds))


def test_the_model_is_scikit_learns():
    x, y, _ = three(1.0)
    expected = logistic_model(0.1).fit(x, y).predict_proba(x)
    found = multiclass(3).fit(x, y, 0.1)
    np.testing.assert_allclose(expit(found(x)), expected, atol=1e-12)
    np.testing.assert_allclose(softmax(lines_of(found)(x), axis=1), expected, atol=1e-12)


def test_an_effect_is_found_and_no_effect_is_not():
    found = {}
    for effect in (0.0, 2.0):
        x, y, names = three(effect)
        scored = cross_validate(multiclass(3), x, y, names, repeats=2)
        assert scored.scores.shape == scored.probabilities.shape == (90, 3)
        assert scored.probabilities.sum(axis=1) == pytest.approx(1)
        found[effect] = macro_area(y, scored.scores)
    assert found[2.0] > 0.85 and 0.35 < found[0.0] < 0.65


def test_a_class_that_a_training_part_lacks_is_the_last_that_is_called():
    x, y, _ = three(2.0)
    for kept in (y < 2, y > 0):
        scores = multiclass(3).fit(x[kept], y[kept], 0.1)(x)
        absent = ({0, 1, 2} - set(y[kept].tolist())).pop()
        assert scores.shape == (90, 3) and (scores[:, absent] == NEVER).all()
        present = [k for k in range(3) if k != absent]
        assert np.allclose(scores[:, present[0]], -scores[:, present[1]]), (
            "of two, one is the other's contrary"
        )


def test_a_held_out_part_is_scored_by_one_model():
    x, y, names = three(2.0)
    parts = np.where(np.arange(90) % 3 == 0, "test", "train")
    scored = hold_out(multiclass(3), x, y, names, parts, 0)
    assert macro_area(y[parts == "test"], scored.scores[parts == "test"]) > 0.8 and len(scored.chosen) == 1


def test_a_rare_class_of_several_is_fitted_as_a_frequent_one():
    labels = np.repeat([0, 1, 2], [140, 140, 20])
    x = numpy_generator(2, "rare").standard_normal((300, 2))
    x[labels == 1, 0] += 1.5
    x[labels == 2, 1] += 1.5
    rare = multiclass(3).fit(x, labels, 1.0)(x)[:, 2] > 0
    assert rare[labels == 2].mean() > 0.4 and rare[labels != 2].mean() < 0.25
