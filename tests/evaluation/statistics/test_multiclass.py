"""Figures of several classes are those of scikit-learn, and of two classes those of two."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from mdae.errors import DataError
from mdae.evaluation.statistics.multiclass import confusion, multiclass_figures, multiclass_scores
from mdae.evaluation.statistics.scores import classification_figures
from mdae.seeding import numpy_generator


def test_they_equal_scikit_learns_with_intervals_about_them():
    rng = numpy_generator(0, "classes")
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    scores = rng.standard_normal((60, 3)) + 1.0 * np.eye(3)[labels]
    said = softmax(scores, axis=1)
    found = multiclass_scores(labels, said, said, np.arange(60).astype(str))
    assert found["auroc"].value == pytest.approx(roc_auc_score(labels, said, multi_class="ovr"))
    assert found["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(labels, said.argmax(axis=1))
    )
    assert confusion(labels, said) == confusion_matrix(labels, said.argmax(axis=1)).tolist()
    assert all(0 < figure.low < figure.value < figure.high < 1 for figure in found.values())
    with pytest.raises(DataError, match="a class has 1 subject:"):
        multiclass_scores(labels, said, said, np.where(labels == 0, "one", np.arange(60).astype(str)))


def test_two_classes_are_scored_as_two():
    rng = numpy_generator(1, "classes")
    labels, odds = np.arange(40) % 2, rng.standard_normal(40)
    share = 1 / (1 + np.exp(-odds))
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    two = classification_figures(labels, odds, share)
    several = multiclass_figures(
        labels, np.stack([-odds, odds], axis=1), np.stack([1 - share, share], axis=1)
    )
    for name, figure in several.items():
        np.testing.assert_allclose(figure(weights), two[name](weights), err_msg=name)
