"""All figures of one set of predictions, each with an interval that resamples subjects.

A figure is a function of weights of rows, so that all replicates of a bootstrap are one matrix product.
"""

from __future__ import annotations

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import (
    CORRELATION,
    EXPLAINED,
    MIN_SUBJECTS,
    REPLICATES,
    SHARE,
    SIZE,
    Estimate,
    Scale,
    Weighted,
    bootstrap_estimate,
    weighted_auroc,
    weighted_average_precision,
    within_classes,
)
from mdae.evaluation.statistics.rates import balanced_accuracy
from mdae.seeding import numpy_generator
from mdae.text import counted

BINS = 10  # of the calibration error
SCALES: dict[str, Scale] = {"mae": SIZE, "r2": EXPLAINED, "pearson_r": CORRELATION}  # all others are shares


def classification_figures(
    labels: np.ndarray, scores: np.ndarray, probabilities: np.ndarray
) -> dict[str, Weighted]:
    """AUROC, AP, balanced accuracy, F1, and with probabilities Brier score and calibration error.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,), log-odds for equally frequent classes: above 0 is called positive.
        probabilities: (N,) of the positive class, or (0,) if there are none.
    """
    positive, called = labels == 1, scores > 0
    figures: dict[str, Weighted] = {
        "auroc": lambda w: weighted_auroc(labels, scores, w),
        "average_precision": lambda w: weighted_average_precision(labels, scores, w),
        "balanced_accuracy": lambda w: (
            0.5 * (_share(w, called & positive, positive) + _share(w, ~called & ~positive, ~positive))
        ),
        "f1": lambda w: 2 * _total(w, called & positive) / (_total(w, called) + _total(w, positive)),
    }
    if len(probabilities):
        figures["brier"] = lambda w: w @ (probabilities - labels) ** 2 / w.sum(axis=1)
        figures["calibration_error"] = lambda w: weighted_calibration_error(labels, probabilities, w)
    return figures


def regression_figures(
    labels: np.ndarray, scores: np.ndarray, ranked: np.ndarray | None = None
) -> dict[str, Weighted]:
    """Mean absolute error, R squared and Pearson's r of numbers (N,); r is of `ranked` (N,) where it is given."""
    ranked = scores if ranked is None else ranked
    return {
        "mae": lambda w: w @ np.abs(labels - scores) / w.sum(axis=1),
        "r2": lambda w: 1 - w @ (labels - scores) ** 2 / _spread(w, labels, labels),
        "pearson_r": lambda w: (
            _spread(w, labels, ranked)
            / np.sqrt(_spread(w, labels, labels) * _spread(w, ranked, ranked)).clip(1e-12)
        ),
    }


def mean_figure(values: np.ndarray) -> Weighted:
    """The mean of a figure that each subject has, such as Dice, (N,); NaN does not count."""
    known = np.isfinite(values)
    return lambda w: w[:, known] @ values[known] / w[:, known].sum(axis=1)


def classification_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    probabilities: np.ndarray,
    subjects: np.ndarray,
    *,
    widening: float = 1.0,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures of a classification with 95 % intervals.

    Args:
        labels, scores, probabilities: (N,), as in `classification_figures`.
        subjects: (N,); drawn whole, within their class.
        widening: how much longer the intervals are than the bootstrap's (`cross_validation_widening`).
        seed: of the bootstrap.

    Raises:
        DataError: a class has fewer than `MIN_SUBJECTS` subjects.
    """
    figures = classification_figures(labels, scores, probabilities)
    found = within_classes(figures, labels, subjects, widening=widening, seed=seed)
    accuracy = balanced_accuracy(labels, (scores > 0).astype(int), subjects, widening=widening)
    return found | {"balanced_accuracy": accuracy}


def regression_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    subjects: np.ndarray,
    *,
    ranked: np.ndarray | None = None,
    widening: float = 1.0,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures of a regression with 95 % intervals; arguments as above, labels are numbers.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects.
    """
    return _of_subjects(regression_figures(labels, scores, ranked), subjects, widening, seed)


def mean_scores(
    values: dict[str, np.ndarray], subjects: np.ndarray, *, widening: float = 1.0, seed: int = 0
) -> dict[str, Estimate]:
    """Means over subjects of figures from 0 to 1 that each has, such as Dice, with 95 % intervals.

    Args:
        values: (N,) by name; NaN where a subject has none.
        subjects, widening, seed: as above.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects.
    """
    return _of_subjects(
        {name: mean_figure(value) for name, value in values.items()}, subjects, widening, seed
    )


def _of_subjects(
    figures: dict[str, Weighted], subjects: np.ndarray, widening: float, seed: int
) -> dict[str, Estimate]:
    """Figures of rows without classes, by a bootstrap of subjects."""
    names, index = np.unique(subjects, return_inverse=True)
    if len(names) < MIN_SUBJECTS:
        raise DataError(
            f"{counted(len(names), 'subject')}: an interval needs {MIN_SUBJECTS}", mend="label more subjects"
        )
    rng = numpy_generator(seed, "bootstrap")
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    weights = drawn[:, index].astype(float)
    return {
        name: bootstrap_estimate(
            figure, weights, (len(names),), scale=SCALES.get(name, SHARE), widening=widening
        )
        for name, figure in figures.items()
    }


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
    """The mean distance between said and true shares over ten bins of as many rows (ECE, equal mass), (R,).

    It is above 0 by chance alone, also for a calibrated model: about 0.2 for 50 subjects and 0.1 for 200. Its interval
    tells how it varies among samples of this size, not where the error of the model lies.
    """
    order = np.argsort(probabilities, kind="stable")
    error = np.zeros(len(weights))
    for rows in np.array_split(order, min(BINS, len(order))):
        gap = weights[:, rows] @ (probabilities[rows] - labels[rows])
        error += np.abs(gap)
    return np.asarray(error / weights.sum(axis=1))
