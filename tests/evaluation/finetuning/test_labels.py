"""Two classes, several, or a number, as a network learns them: losses, draws, and what outputs say of a label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit, softmax
from sklearn.metrics import log_loss, roc_auc_score

from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.finetuning.labels import draw_rows, labels_of, unsmoothed
from mdae.seeding import numpy_generator

SHARES = (0.6, 0.3, 0.1)


def made(num_classes: int, balanced: bool, smoothing: float = 0.2):
    """Labels of a hundred rows in unequal shares."""
    labels = np.repeat([0.0, 1.0, 2.0], [60, 30, 10]) if num_classes == 3 else np.repeat([0.0, 1.0], [70, 30])
    return labels, labels_of(
        labels, num_classes, FinetuneOptions(balanced=balanced, label_smoothing=smoothing)
    )


@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.integers(0, 5))
def test_balanced_draws_take_all_classes_equally(sizes, seed):
    targets = np.repeat(np.arange(len(sizes)), sizes)
    rows, number = np.arange(len(targets)), len(sizes)
    drawn = draw_rows(targets, rows, True, numpy_generator(seed, "order"))
    assert 0 <= len(drawn) - len(rows) < number
    turns = targets[drawn].reshape(-1, number)
    assert (np.sort(turns, axis=1) == np.arange(number)).all(), "an uneven turn"
    for value in range(number):
        times = [int((drawn == row).sum()) for row in np.flatnonzero(targets == value)]
        assert max(times) - min(times) <= 1
    plain = draw_rows(targets, rows, False, numpy_generator(seed, "order"))
    assert sorted(plain) == rows.tolist()


def test_losses_are_the_smoothed_cross_entropies():
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, three = made(3, True, smoothing=0.0)
    rows = np.array([0, 70, 95, 1, 99])
    found = three.losses(outputs, three.targets(labels)[rows]).numpy()
    said = softmax(outputs.numpy(), axis=1)
    assert found.mean() == pytest.approx(log_loss(labels[rows], said, labels=[0, 1, 2]))
    labels, two = made(2, True)
    smooth = torch.from_numpy(labels[rows]) * 0.8 + 0.1
    expected = F.binary_cross_entropy_with_logits(outputs[:, 0], smooth, reduction="none")
    torch.testing.assert_close(two.losses(outputs[:, 0], two.targets(labels)[rows]), expected)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("smoothed", [True, False])
def test_a_network_without_a_clue_says_each_classs_share(num_classes, balanced, smoothed):
    labels, learned = made(num_classes, balanced)
    blank = np.zeros((4, num_classes)) if num_classes > 2 else np.zeros(4)
    outputs = blank + learned.offset
    scores = learned.scores(outputs)
    assert scores.shape == blank.shape
    np.testing.assert_allclose(scores, 0 if num_classes == 2 else -np.log(2), atol=1e-12)
    said = learned.probabilities(outputs, labels, smoothed=smoothed)
    np.testing.assert_allclose(said, 0.3 if num_classes == 2 else [SHARES] * 4, atol=1e-9)
    assert (learned.offset == 0).all() or not balanced


def test_only_what_was_learned_smoothed_is_unsmoothed():
    """Epoch 0 is a probe, which no smoothed label was shown to."""
    labels, two = made(2, True)
    outputs = np.array([logit(0.5), logit(0.74)])
    for smoothed, said in ((False, 0.74), (True, 0.8)):
        found = two.probabilities(outputs, labels, smoothed=smoothed)
        assert found == pytest.approx([0.3, 0.3 * said / (0.3 * said + 0.7 * (1 - said))])


def test_quality_is_scikit_learns_area_and_classes_weigh_the_same():
    labels, three = made(3, True)
    outputs = numpy_generator(0, "outputs").standard_normal((100, 3)) + 2 * np.eye(3)[labels.astype(int)]
    expected = roc_auc_score(labels, softmax(outputs, axis=1), multi_class="ovr")
    targets = three.targets(labels)
    assert three.quality(targets, outputs) == pytest.approx(expected)
    weights = three.weights(targets)
    assert [weights[labels == k].sum() for k in range(3)] == pytest.approx([1, 1, 1])
    assert (made(3, False)[1].weights(targets) == 1).all()


def test_numbers_are_standardised_and_come_back():
    labels = numpy_generator(0, "ages").uniform(20, 80, 50)
    numbers = labels_of(labels, 0, FinetuneOptions())
    targets = numbers.targets(labels)
    assert (targets.mean(), targets.std()) == pytest.approx((0, 1))
    np.testing.assert_allclose(numbers.scores(targets), labels)
    assert numbers.quality(targets, targets + 0.5) == pytest.approx(-0.5)
    assert np.isnan(numbers.probabilities(targets, labels, smoothed=True)).all()
    assert labels_of(np.full(5, 3.0), 0, FinetuneOptions()).targets(np.full(5, 3.0)).tolist() == [0] * 5


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_probabilities_undo_label_smoothing(smoothing):
    """A network that has learned its smoothed labels exactly says the true shares, not some nearer to equal ones."""
    truth = np.array([0.05, 0.3, 0.5, 0.9])

    def said(log_odds: np.ndarray, smoothing: float) -> np.ndarray:
        return np.exp(unsmoothed(np.stack([0 * log_odds, log_odds], axis=1), smoothing))[:, 1]

    assert said(logit(truth * (1 - smoothing) + smoothing / 2), smoothing) == pytest.approx(truth)
    surer = said(np.array([-9.0, 9.0]), 0.2)
    assert surer == pytest.approx([0.001, 0.999]), "beyond what smoothed labels hold it is certain"
    assert (np.diff(said(np.linspace(-2, 2, 9), 0.2)) > 0).all()
    three = numpy_generator(0, "three").dirichlet([2, 2, 2], 9).clip(0.01)
    three /= three.sum(axis=1, keepdims=True)
    logits = np.log(three * (1 - smoothing) + smoothing / 3) + 5.0  # a softmax does not see a shift
    assert np.exp(unsmoothed(logits, smoothing)) == pytest.approx(three)
