"""A figure against the number of labelled subjects, its interval over subjects, draws and seeds of pre-training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from mdae.evaluation.statistics.intervals import (
    LEVEL,
    SHARE,
    Estimate,
    furthest_from_perfect,
    stretched_estimate,
)
from mdae.evaluation.statistics.tests import difference_test


@dataclass(frozen=True)
class CurvePoint:
    """What so many labelled subjects give.

    Attributes:
        size: how many.
        values: a figure of every tested subject for each draw, (draws, N), by name; NaN where there is none.
        scores: its means with 95 % intervals over subjects and draws, by name.
    """

    size: int
    values: dict[str, list[list[float]]]
    scores: dict[str, Estimate] = field(default_factory=dict)


def curve_estimate(values: np.ndarray, *, widening: float = 1.0) -> Estimate:
    """A mean over draws and subjects, both as if drawn anew: their errors add up.

    Args:
        values: (draws, N) or (seeds, draws, N) in [0, 1]; NaN where a subject has no figure. Seeds of pre-training
            count as drawn anew too.
        widening: how much larger the error over subjects is, for models that were refitted.
    """
    known = _known(values)
    error, dof = _error(known, widening)
    number = known.shape[-1]
    return stretched_estimate(
        float(np.nanmean(known)), error, scale=SHARE, dof=dof, perfect=furthest_from_perfect(number, widening)
    )


def curve_difference(
    first: np.ndarray, second: np.ndarray, *, widening: float = 1.0
) -> tuple[Estimate, float]:
    """By how much the first figure is above the second, on the same draws and subjects, and two-sided p.

    Args:
        first, second: as above, each place of both of the same seed, draw and subject.
        widening: as above.
    """
    apart = _known(first - second)
    error, dof = _error(apart, widening)
    value, arm = float(np.nanmean(apart)), float(stats.t.ppf((1 + LEVEL) / 2, dof)) * error
    _, p = difference_test(value, error, fewest=apart.shape[-1], dof=dof)
    return Estimate(value, max(-1.0, value - arm), min(1.0, value + arm)), p


def _known(values: np.ndarray) -> np.ndarray:
    """Without the subjects whom no draw has a figure of."""
    return values[..., ~np.isnan(values).all(axis=tuple(range(values.ndim - 1)))]


def _error(known: np.ndarray, widening: float) -> tuple[float, float]:
    """The standard error of a mean over (..., draws, N), each axis a sample, and its degrees of freedom."""
    last = known.ndim - 1
    parts = []
    for axis, number in enumerate(known.shape):
        if number > 1:
            means = np.nanmean(known, axis=tuple(other for other in range(known.ndim) if other != axis))
            parts.append((_variance_of_mean(means) * (widening**2 if axis == last else 1.0), number - 1))
    total = sum(part for part, _ in parts)
    # Welch and Satterthwaite: how many observations the sum of the errors is as good as
    below = sum(part**2 / dof for part, dof in parts)
    return math.sqrt(total), max(1.0, total**2 / below if below else float(known.shape[-1] - 1))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values))
