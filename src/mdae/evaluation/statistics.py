"""Comparing encoders on the same subjects, and over many tasks: DeLong, paired bootstrap, Holm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mdae.evaluation.metrics import Estimate


def delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, float]:
    """The difference of two AUROCs on the same rows, its 95 % interval and two-sided p (DeLong 1988).

    Every row counts as a subject of its own. By mid-ranks, as Sun and Xu (2014).

    Args:
        labels: (N,) of 0 and 1.
        first, second: (N,) scores of the two.

    Returns:
        The AUROC of `first` less that of `second`, and p; p is 1 where the two do not differ at all.
    """
    areas, covariance = delong_covariance(labels, np.stack([first, second]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = np.sqrt(max(variance, 0.0))
    if error < 1e-12:
        return Estimate(difference, difference, difference), 1.0 if abs(difference) < 1e-12 else 0.0
    half = float(stats.norm.ppf(0.975)) * error
    p = float(2 * stats.norm.sf(abs(difference) / error))
    return Estimate(difference, difference - half, difference + half), p


def delong_covariance(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (K,) of K scores (K, N) on the same rows and their covariance (K, K)."""
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    within_positive = stats.rankdata(positive, axis=1)
    within_negative = stats.rankdata(negative, axis=1)
    together = stats.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    areas = (together[:, :m].sum(axis=1) - m * (m + 1) / 2) / (m * n)
    of_positive = (together[:, :m] - within_positive) / n
    of_negative = 1 - (together[:, m:] - within_negative) / m
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    return areas, covariance


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the family-wise error is held (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
