"""Figures of several classes, each against the rest and averaged, with intervals that resample subjects."""

from __future__ import annotations

import numpy as np

from mdae.evaluation.statistics.intervals import Estimate, Weighted, weighted_auroc, within_classes
from mdae.evaluation.statistics.rates import balanced_accuracy


def multiclass_figures(
    labels: np.ndarray, scores: np.ndarray, probabilities: np.ndarray
) -> dict[str, Weighted]:
    """Macro one-against-rest AUROC, balanced accuracy, and Brier score.

    Args:
        labels: (N,) of 0 to K - 1.
        scores: (N, K), each class's against the rest; the largest is called.
        probabilities: (N, K).
    """
    number = scores.shape[1]
    own = labels[:, None] == np.arange(number)
    right = (scores.argmax(axis=1) == labels).astype(float)
    apart = ((probabilities - own) ** 2).sum(axis=1)

    def area(weights: np.ndarray) -> np.ndarray:
        areas = [weighted_auroc(own[:, k].astype(int), scores[:, k], weights) for k in range(number)]
        return np.asarray(np.mean(areas, axis=0))

    def sensitivity(weights: np.ndarray) -> np.ndarray:
        return np.asarray(((weights * right) @ own / (weights @ own)).mean(axis=1))

    return {
        "auroc": area,
        "balanced_accuracy": sensitivity,
        "brier": lambda w: w @ apart / w.sum(axis=1) / 2,  # halved, as that of two classes is counted
    }


def multiclass_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    probabilities: np.ndarray,
    subjects: np.ndarray,
    *,
    widening: float = 1.0,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures with 95 % intervals; subjects are drawn whole, within their class (`subject_weights`).

    Raises:
        DataError: a class has fewer than `MIN_SUBJECTS` subjects.
    """
    figures = multiclass_figures(labels, scores, probabilities)
    found = within_classes(figures, labels, subjects, widening=widening, seed=seed)
    accuracy = balanced_accuracy(labels, scores.argmax(axis=1), subjects, widening=widening)
    return found | {"balanced_accuracy": accuracy}


def confusion(labels: np.ndarray, scores: np.ndarray) -> list[list[int]]:
    """How many rows of each class (rows) are taken for each class (columns), (K, K); arguments as above."""
    counts = np.zeros((scores.shape[1],) * 2, dtype=int)
    np.add.at(counts, (labels.astype(int), scores.argmax(axis=1)), 1)
    return [[int(cell) for cell in row] for row in counts]
