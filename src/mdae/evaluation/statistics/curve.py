"""A figure against the number of labelled subjects, its interval over subjects and draws."""

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
    """A mean over draws and subjects, both as if drawn anew: the two errors add up.

    Args:
        values: (draws, N) in [0, 1]; NaN where a subject has no figure.
        widening: how much larger the error over subjects is, for models that were refitted.
    """
    known = values[:, ~np.isnan(values).all(axis=0)]
    error, dof = _error(known, widening)
    number = known.shape[1]
    return stretched_estimate(
        float(np.nanmean(known)), error, scale=SHARE, dof=dof, perfect=furthest_from_perfect(number, widening)
    )


def curve_difference(first: np.ndarray, second: np.ndarray, *, widening: float = 1.0) -> Estimate:
    """By how much the first figure is above the second, on the same draws and subjects.

    Args:
        first, second: (draws, N) in [0, 1], row by row of the same draw, column by column of the same subject.
        widening: as above.
    """
    apart = first - second
    apart = apart[:, ~np.isnan(apart).all(axis=0)]
    error, dof = _error(apart, widening)
    value, arm = float(np.nanmean(apart)), float(stats.t.ppf((1 + LEVEL) / 2, dof)) * error
    return Estimate(value, max(-1.0, value - arm), min(1.0, value + arm))


def _error(known: np.ndarray, widening: float) -> tuple[float, float]:
    """The standard error of a mean over draws and subjects (draws, N), and its degrees of freedom."""
    draws, number = known.shape
    parts = [(widening**2 * _variance_of_mean(np.nanmean(known, axis=0)), number - 1)]
    if draws > 1:
        parts.append((_variance_of_mean(np.nanmean(known, axis=1)), draws - 1))
    total = sum(part for part, _ in parts)
    # Welch and Satterthwaite: how many observations the sum of two errors is as good as
    below = sum(part**2 / dof for part, dof in parts if dof)
    return math.sqrt(total), max(1.0, total**2 / below if below else float(number - 1))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
