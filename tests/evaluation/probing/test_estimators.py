"""A fitted line without its library says what scikit-learn says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mdae.evaluation.probing.estimators import LINEAR, RIDGE, Linear, logistic_model, ridge_model
from mdae.evaluation.probing.multiclass import macro_area
from mdae.evaluation.probing.neighbours import KNN
from mdae.seeding import numpy_generator

FEATURES = numpy_generator(0, "lines").standard_normal((60, 9)) * 40 + 7
NUMBERS = FEATURES[:, 0] / 40 + FEATURES[:, 1] / 80


def test_a_line_equals_the_pipeline_it_is_taken_from():
    two = (np.median(NUMBERS) < NUMBERS).astype(int)
    of_two, of_numbers = logistic_model(0.1).fit(FEATURES, two), ridge_model(0.1).fit(FEATURES, NUMBERS)
    np.testing.assert_allclose(Linear.of(of_two)(FEATURES), of_two.decision_function(FEATURES), rtol=1e-12)
    np.testing.assert_allclose(Linear.of(of_numbers)(FEATURES), of_numbers.predict(FEATURES), rtol=1e-12)
    assert np.array_equal(LINEAR.fit(FEATURES, two, 0.1)(FEATURES), Linear.of(of_two)(FEATURES))
    assert np.array_equal(RIDGE.fit(FEATURES, NUMBERS, 0.1)(FEATURES), Linear.of(of_numbers)(FEATURES))


@pytest.mark.filterwarnings("error")
def test_a_line_a_class_stands_for_several_classes():
    three = np.digitize(NUMBERS, np.quantile(NUMBERS, [0.3, 0.6]))
    model = logistic_model(1.0).fit(FEATURES, three)
    scores = Linear.of(model)(FEATURES)
    assert scores.shape == (60, 3)
    np.testing.assert_allclose(scores, model.decision_function(FEATURES), rtol=1e-10)


def test_quality_is_scikit_learns():
    two, three = (
        (np.median(NUMBERS) < NUMBERS).astype(int),
        np.digitize(NUMBERS, np.quantile(NUMBERS, [0.3, 0.6])),
    )
    scores = FEATURES[:, :3]
    for protocol in (LINEAR, KNN):
        assert protocol.quality(two, scores[:, 0]) == pytest.approx(roc_auc_score(two, scores[:, 0]))
        assert protocol.quality(np.ones(60, int), scores[:, 0]) == 0.5, "one class ranks nothing"
    each = [roc_auc_score(three == k, scores[:, k]) for k in range(3)]
    assert macro_area(three, scores) == pytest.approx(np.mean(each))
    assert RIDGE.quality(NUMBERS, scores[:, 0]) == pytest.approx(-np.abs(NUMBERS - scores[:, 0]).mean())
