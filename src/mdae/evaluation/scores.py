"""All figures of one set of predictions, each with an interval that resamples subjects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.metrics import (
    MIN_SUBJECTS,
    REPLICATES,
    Estimate,
    percentile_interval,
    subject_weights,
    weighted_auroc,
    weighted_average_precision,
)
from mdae.seeding import numpy_generator

BINS = 10  # of the calibration error
SIGNED = (-1.0, 1.0)
UNBOUNDED = (-np.inf, np.inf)
Weighted = Callable[[np.ndarray], np.ndarray]


def classification_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    probabilities: np.ndarray,
    subjects: np.ndarray,
    *,
    widening: float = 1.0,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUROC, AP, balanced accuracy, F1, Brier score and calibration error with 95 % intervals.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,), log-odds for equally frequent classes: above 0 is called positive.
        probabilities: (N,) of the positive class.
        subjects: (N,); drawn whole, within their class.
        widening: how much longer the intervals are than the bootstrap's (`cross_validation_widening`).
        seed: of the bootstrap.

    Raises:
        DataError: a class has fewer than `MIN_SUBJECTS` subjects.
    """
    positive, called = labels == 1, scores > 0
    figures: dict[str, Weighted] = {
        "auroc": lambda w: weighted_auroc(labels, scores, w),
        "average_precision": lambda w: weighted_average_precision(labels, scores, w),
        "balanced_accuracy": lambda w: (
            0.5 * (_share(w, called & positive, positive) + _share(w, ~called & ~positive, ~positive))
        ),
        "f1": lambda w: 2 * _total(w, called & positive) / (_total(w, called) + _total(w, positive)),
        "brier": lambda w: w @ (probabilities - labels) ** 2 / w.sum(axis=1),
        "calibration_error": lambda w: weighted_calibration_error(labels, probabilities, w),
    }
    weights = subject_weights(subjects, labels, seed)
    return {name: _estimate(figure, weights).widened(widening) for name, figure in figures.items()}


def regression_scores(
    labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray, *, widening: float = 1.0, seed: int = 0
) -> dict[str, Estimate]:
    """Mean absolute error, R squared and Pearson's r with 95 % intervals; arguments as above, labels are numbers.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects.
    """
    names, index = np.unique(subjects, return_inverse=True)
    if len(names) < MIN_SUBJECTS:
        raise DataError(
            f"{len(names)} subjects: an interval needs {MIN_SUBJECTS}", mend="label more subjects"
        )
    rng = numpy_generator(seed, "bootstrap")
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    weights = drawn[:, index].astype(float)
    figures: dict[str, tuple[Weighted, tuple[float, float]]] = {
        "mae": (lambda w: w @ np.abs(labels - scores) / w.sum(axis=1), (0.0, np.inf)),
        "r2": (lambda w: 1 - w @ (labels - scores) ** 2 / _spread(w, labels, labels), UNBOUNDED),
        "pearson_r": (
            lambda w: (
                _spread(w, labels, scores)
                / np.sqrt(_spread(w, labels, labels) * _spread(w, scores, scores)).clip(1e-12)
            ),
            SIGNED,
        ),
    }
    return {
        name: _estimate(figure, weights).widened(widening, bounds=bounds)
        for name, (figure, bounds) in figures.items()
    }


def _estimate(figure: Weighted, weights: np.ndarray) -> Estimate:
    """The figure of all rows, with the interval over weightings."""
    value = float(figure(np.ones((1, weights.shape[1])))[0])
    return Estimate(value, *percentile_interval(figure(weights)))


def _total(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ rows.astype(float))


def _share(weights: np.ndarray, rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    return np.asarray(_total(weights, rows) / _total(weights, among))


def _spread(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weighted sums of products about the means, (R,)."""
    total = weights.sum(axis=1)
    return np.asarray(weights @ (first * second) - (weights @ first) * (weights @ second) / total)


def weighted_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The mean distance between said and true shares over ten bins of as many rows (ECE, equal mass), (R,)."""
    order = np.argsort(probabilities, kind="stable")
    error = np.zeros(len(weights))
    for rows in np.array_split(order, min(BINS, len(order))):
        gap = weights[:, rows] @ (probabilities[rows] - labels[rows])
        error += np.abs(gap)
    return np.asarray(error / weights.sum(axis=1))
