"""AUROC and average precision with intervals that resample subjects, not scans."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from mdae.errors import DataError
from mdae.seeding import numpy_generator

MIN_SUBJECTS = 5  # of each class; below, an interval means nothing
REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def widened(self, factor: float, *, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
        """The same value with both arms of the interval `factor` times as long, within what is possible."""
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return Estimate(self.value, max(bounds[0], low), min(bounds[1], high))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def cross_validation_widening(folds: int) -> float:
    """How much longer than a bootstrap of the scores the interval of a k-fold cross-validated figure has to be.

    Resampling scored subjects leaves out that the models were fitted to overlapping subjects, who were few and could
    have been others. The variance is 1 + k / (k - 1) times as large (Nadeau and Bengio 2003, the corrected variance).
    """
    return math.sqrt(1 + folds / (folds - 1))


def weighted_auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC for many weightings of the rows at once; ties count half.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,).
        weights: (R, N), at least 0; how often each row counts in each of R replicates.

    Returns:
        (R,); NaN where a class has no weight.
    """
    _, level = np.unique(scores, return_inverse=True)
    positive = _sum_by(level, weights * (labels == 1))
    negative = _sum_by(level, weights * (labels == 0))
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / (positive.sum(axis=1) * negative.sum(axis=1)))


def weighted_average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision, the sum of precision times the gain in recall; arguments as `weighted_auroc`."""
    _, level = np.unique(-scores, return_inverse=True)  # highest scores first
    positive = _sum_by(level, weights * (labels == 1))
    total = _sum_by(level, weights)
    with np.errstate(invalid="ignore"):
        precision = np.cumsum(positive, axis=1) / np.cumsum(total, axis=1)
        gained = positive / positive.sum(axis=1, keepdims=True)
        return np.asarray(np.where(positive > 0, precision * gained, 0.0).sum(axis=1))


def _sum_by(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over the columns of each level: (R, N) to (R, levels)."""
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(level[order]) > 0])
    return np.asarray(np.add.reduceat(values[:, order], starts, axis=1))


def subject_weights(
    subjects: np.ndarray, labels: np.ndarray, seed: int, replicates: int = REPLICATES
) -> np.ndarray:
    """Bootstrap weights (R, N): subjects drawn with replacement, all rows of a subject together.

    Subjects are drawn within their class, so that no replicate is without one.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects in a class.
    """
    names, index = np.unique(subjects, return_inverse=True)
    ever_positive = np.zeros(len(names), dtype=bool)
    np.logical_or.at(ever_positive, index, labels == 1)
    rng = numpy_generator(seed, "bootstrap")
    counts = np.zeros((replicates, len(names)))
    for members in (np.flatnonzero(ever_positive), np.flatnonzero(~ever_positive)):
        if len(members) < MIN_SUBJECTS:
            raise DataError(
                f"a class has {len(members)} subjects: an interval needs at least {MIN_SUBJECTS} of each",
                mend="label more subjects",
            )
        counts[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), replicates
        )
    return counts[:, index]


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of replicates; NaN ones do not count."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def auroc(labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray, *, seed: int = 0) -> Estimate:
    """Area under the ROC curve with a percentile interval from a bootstrap of subjects."""
    replicates = weighted_auroc(labels, scores, subject_weights(subjects, labels, seed))
    return Estimate(float(roc_auc_score(labels, scores)), *percentile_interval(replicates))


def average_precision(
    labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> Estimate:
    """Average precision with a percentile interval from a bootstrap of subjects."""
    replicates = weighted_average_precision(labels, scores, subject_weights(subjects, labels, seed))
    return Estimate(float(average_precision_score(labels, scores)), *percentile_interval(replicates))


def auroc_difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, subjects: np.ndarray, *, seed: int = 0
) -> Estimate:
    """AUROC of `first` less that of `second` on the same rows, by a paired bootstrap of subjects."""
    weights = subject_weights(subjects, labels, seed)
    replicates = weighted_auroc(labels, first, weights) - weighted_auroc(labels, second, weights)
    value = float(roc_auc_score(labels, first) - roc_auc_score(labels, second))
    return Estimate(value, *percentile_interval(replicates))
