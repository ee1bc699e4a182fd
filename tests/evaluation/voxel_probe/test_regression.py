"""The multinomial readout: equal to scikit-learn's, frequent as in scans, its offset where Dice is best."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mdae.evaluation.voxel_probe.regression import NEVER, STRENGTH, Points, fit_readout


def points_of(number: int, subject: str, seed: int, labels: int = 3) -> Points:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, labels, number)
    x = rng.standard_normal((number, 5)) + 1.5 * np.eye(5)[y]
    return Points(subject, x, y, np.ones(number))


@pytest.mark.parametrize("labels", [2, 3])
def test_it_is_scikit_learns_regression(labels):
    own = points_of(400, "a", 0, labels)
    found = fit_readout([own], labels)
    scaler = StandardScaler().fit(own.features)
    line = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000)
    expected = line.fit(scaler.transform(own.features), own.labels).predict_log_proba(
        scaler.transform(own.features)
    )
    scores = found.scores(own.features)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, expected, atol=0.02)


def test_labels_are_as_frequent_as_in_the_scans():
    own = points_of(3000, "a", 1)
    weights = np.where(own.labels == 0, 50.0, 1.0)
    rare = fit_readout([Points("a", own.features, own.labels, weights)], 3)
    plain = fit_readout([own], 3)
    moved = (rare.biases - rare.biases[1]) - (plain.biases - plain.biases[1])
    assert moved[0] == pytest.approx(np.log(50), abs=1e-6) and moved[2] == pytest.approx(0, abs=1e-6)


def test_a_label_that_nobody_has_is_never_called():
    readout = fit_readout([points_of(300, "a", 2)], 5)
    assert (readout.biases[3:] == NEVER).all() and not readout.weights[3:].any()


def test_the_offset_is_chosen_on_subjects_that_were_left_out():
    """Each subject's features carry a mark of its own: by what was fitted on, all looks well told apart."""
    rng = np.random.default_rng(3)
    own = []
    for number in range(4):
        y = (np.arange(200) < 100).astype(int)
        x = np.concatenate([rng.standard_normal((200, 1)) + 0.8 * y[:, None], np.zeros((200, 4))], axis=1)
        x[:, 1 + number] = 40 * (y - 0.5)
        own.append(Points(f"s{number}", x, y, np.where(y == 0, 30.0, 1.0)))
    alone = fit_readout([Points("one", p.features, p.labels, p.stand_for) for p in own], 2)
    apart = fit_readout(own, 2)
    np.testing.assert_array_equal(alone.weights, apart.weights)
    assert apart.biases[0] < alone.biases[0], "a rare label is called more readily where it is not sure"
