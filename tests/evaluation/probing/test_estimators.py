"""A fitted line without its library says what scikit-learn says."""

from __future__ import annotations

import numpy as np
import pytest

from mdae.evaluation.probing.estimators import LINEAR, RIDGE, Linear, logistic_model, ridge_model
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
