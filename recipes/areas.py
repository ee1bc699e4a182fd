"""AUROC of several seeds of pre-training on the same rows: over people and seeds, each as if drawn anew."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from mdae.evaluation.statistics.curve import joined_error
from mdae.evaluation.statistics.intervals import (
    LEVEL,
    SHARE,
    Estimate,
    class_sizes,
    degrees_of_freedom,
    furthest_from_perfect,
    stretched_estimate,
    subject_weights,
    weighted_auroc,
)
from mdae.evaluation.statistics.tests import difference_test


class Rows:
    """What is told, of whom.

    Args:
        labels: (N,) of 0 and 1.
        people: (N,) whose each row is; all rows of a person are drawn together.
        widening: how much larger the error over people is, for models that were refitted.
    """

    def __init__(self, labels: np.ndarray, people: np.ndarray, widening: float = 1.0) -> None:
        self.labels, self.widening = labels, widening
        self.sizes = class_sizes(people, labels)
        drawn = subject_weights(people, labels, seed=0)
        self._weights = np.concatenate([np.ones((1, len(labels))), drawn])  # the rows themselves first

    def area(self, scores: np.ndarray) -> Estimate:
        """The mean AUROC of scores (seeds, N)."""
        value, error, dof = self._mean(self._areas(scores))
        perfect = furthest_from_perfect(min(self.sizes), self.widening)
        return stretched_estimate(value, error, scale=SHARE, dof=dof, perfect=perfect)

    def difference(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, float]:
        """By how much the AUROC of scores (seeds, N) is above that of others, paired by row and seed, and p.

        Where one of them has a single row of scores, as a baseline without seeds, all seeds are paired with it.
        """
        seeds = (
            max(len(first), len(second)) if 1 in (len(first), len(second)) else min(len(first), len(second))
        )
        one, two = (self._areas(own)[:seeds] for own in (first, second))
        value, error, dof = self._mean(one - two)
        _, p = difference_test(value, error, fewest=min(self.sizes), dof=dof)
        arm = float(stats.t.ppf((1 + LEVEL) / 2, dof)) * error
        return Estimate(value, max(-1.0, value - arm), min(1.0, value + arm)), p

    def _areas(self, scores: np.ndarray) -> np.ndarray:
        """(seeds, 1 + draws)."""
        return np.stack([weighted_auroc(self.labels, own, self._weights) for own in scores])

    def _mean(self, areas: np.ndarray) -> tuple[float, float, float]:
        """The mean over seeds, its standard error over people and seeds, and that one's degrees of freedom."""
        fewest, seeds = min(self.sizes), len(areas)
        over_people = self.widening * areas[:, 1:].mean(axis=0).std() * math.sqrt(fewest / (fewest - 1))
        parts = [(float(over_people) ** 2, degrees_of_freedom(self.sizes))]
        if seeds > 1:
            parts.append((float(areas[:, 0].var(ddof=1)) / seeds, seeds - 1))
        return float(areas[:, 0].mean()), *joined_error(parts)
