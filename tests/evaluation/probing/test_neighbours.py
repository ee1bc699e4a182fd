"""Nearest neighbours are those of scikit-learn, each class as frequent as the others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdae.evaluation.probing.cross_validation import cross_validate, probability_of
from mdae.evaluation.probing.multiclass import NEVER, macro_area
from mdae.evaluation.probing.neighbours import KNN, neighbours
from mdae.seeding import numpy_generator

FEATURES = numpy_generator(0, "lines").standard_normal((60, 9)) * 40 + 7
NEW = FEATURES[::7] + 3.0
LABELS = np.repeat([0, 1, 2], [10, 20, 30])


def counts(labels: np.ndarray, number: int) -> np.ndarray:
    """How many of the nearest are of each class, by scikit-learn, (N, K)."""
    nearest = KNeighborsClassifier(number, metric="cosine")
    return make_pipeline(StandardScaler(), nearest).fit(FEATURES, labels).predict_proba(NEW) * number


@pytest.mark.parametrize("number", [1, 5])
def test_of_two_classes_their_counts_are_scored_each_as_frequent_as_the_other(number):
    labels = (LABELS > 0).astype(int)
    zeros, ones = (counts(labels, number) / [1 / 6, 5 / 6]).T
    np.testing.assert_allclose(KNN.fit(FEATURES, labels, number)(NEW), np.log(ones + 1) - np.log(zeros + 1))


@pytest.mark.parametrize("number", [1, 9])
def test_of_three_classes_each_is_scored_against_the_rest(number):
    protocol = neighbours(3)
    scores = protocol.fit(FEATURES, LABELS, number)(NEW)
    shares = np.array([1, 2, 3]) / 6
    raised = counts(LABELS, number) / shares + 1
    equal = raised / raised.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, np.log(equal / (1 - equal)), atol=1e-12)
    wanted = softmax(np.log(raised * shares), axis=1)
    np.testing.assert_allclose(probability_of(scores, LABELS, protocol), wanted, atol=1e-12)


def test_a_class_that_a_training_part_lacks_is_the_last_that_is_called():
    kept = LABELS != 1
    scores = neighbours(3).fit(FEATURES[kept], LABELS[kept], 5)(NEW)
    assert (scores[:, 1] == NEVER).all() and np.allclose(scores[:, 0], -scores[:, 2])


def test_three_classes_are_found_where_they_are_and_not_where_they_are_not():
    rng = numpy_generator(0, "three")
    noise, names = rng.standard_normal((90, 6)), np.arange(90)
    labels = names % 3
    for effect, low, high in ((0.0, 0.35, 0.65), (2.5, 0.85, 1.0)):
        x = noise.copy()
        x[names, labels] += effect
        scored = cross_validate(neighbours(3), x, labels, names, repeats=2)
        assert low < macro_area(labels, scored.scores) <= high
        assert scored.probabilities.sum(axis=1) == pytest.approx(1)
