"""Figures of several classes, each against the rest and averaged, with intervals that resample subjects."""

from __future__ import annotations

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import (
    MIN_SUBJECTS,
    REPLICATES,
    Estimate,
    Weighted,
    bootstrap_estimate,
    weighted_auroc,
)
from mdae.seeding import numpy_generator


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
    """The figures with 95 % intervals; subjects are drawn whole, within their (first) class.

    Raises:
        DataError: a class has fewer than `MIN_SUBJECTS` subjects.
    """
    names, first, index = np.unique(subjects, return_index=True, return_inverse=True)
    rng = numpy_generator(seed, "bootstrap")
    counts, sizes = np.zeros((REPLICATES, len(names))), []
    for value in range(scores.shape[1]):
        members = np.flatnonzero(labels[first] == value)
        if len(members) < MIN_SUBJECTS:
            raise DataError(
                f"a class has {len(members)} subjects: an interval needs at least {MIN_SUBJECTS} of each",
                mend="label more subjects",
            )
        shares = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), shares, REPLICATES)
        sizes.append(len(members))
    weights = counts[:, index]
    figures = multiclass_figures(labels, scores, probabilities)
    return {
        name: bootstrap_estimate(figure, weights, tuple(sizes), widening=widening)
        for name, figure in figures.items()
    }
