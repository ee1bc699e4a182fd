"""A figure against the number of labelled subjects, its interval over subjects, draws and seeds of pre-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from mdae.evaluation.statistics.intervals import (
    LEVEL,
    SHARE,
    Estimate,
    Scale,
    Weighted,
    degrees_of_freedom,
    furthest_from_perfect,
    stretched_estimate,
)
from mdae.evaluation.statistics.tests import difference_test

AT_ONCE = 256  # people that are left out in one product of matrices


@dataclass(frozen=True)
class CurvePoint:
    """What so many labelled subjects give.

    Attributes:
        size: how many.
        values: a figure of every tested subject for each draw, (draws, N), by name; NaN where there is none.
        scores: its means with 95 % intervals over subjects and draws, by name.
        classes: number of subjects of each class, of a figure that compares classes; else none.
    """

    size: int
    values: dict[str, list[list[float]]]
    scores: dict[str, Estimate] = field(default_factory=dict)
    classes: tuple[int, ...] = ()


def pseudo_values(figure: Weighted, people: np.ndarray) -> np.ndarray:
    """What each person adds to a figure that nobody has alone, such as an AUROC (the jackknife's pseudo-values).

    Their mean is the figure, exactly for AUROC and means, and their spread is its error.

    Args:
        figure: of weights of rows (R, N).
        people: (N,); all rows of a person are left out together.

    Returns:
        (N,), a person's at its first row, NaN at the others.
    """
    names, first, whose = np.unique(people, return_index=True, return_inverse=True)
    whole = float(figure(np.ones((1, len(people))))[0])
    without = [
        figure((whose != some[:, None]).astype(float))
        for some in np.array_split(np.arange(len(names)), -(-len(names) // AT_ONCE))
    ]
    values = np.full(len(people), np.nan)
    values[first] = len(names) * whole - (len(names) - 1) * np.concatenate(without)
    return values


def curve_estimate(
    values: np.ndarray, *, widening: float = 1.0, scale: Scale = SHARE, classes: Sequence[int] = ()
) -> Estimate:
    """A mean over draws and subjects, both as if drawn anew: their errors add up.

    Args:
        values: (draws, N) or (seeds, draws, N); NaN where a subject has no figure. Seeds of pre-training count as drawn
            anew too.
        widening: how much larger the error over subjects is, for models that were refitted.
        scale: the figure's range.
        classes: number of subjects of each class, where the figure compares classes.
    """
    known = _known(values)
    error, dof = _error(known, widening, classes)
    perfect = furthest_from_perfect(min(classes, default=known.shape[-1]), widening)
    return stretched_estimate(float(np.nanmean(known)), error, scale=scale, dof=dof, perfect=perfect)


def curve_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    widening: float = 1.0,
    scale: Scale = SHARE,
    classes: Sequence[int] = (),
) -> tuple[Estimate, float]:
    """By how much the first figure is above the second, on the same draws and subjects, and two-sided p.

    Args:
        first, second: as above, each place of both of the same seed, draw and subject.
        widening, scale, classes: as above.
    """
    apart = _known(first - second)
    error, dof = _error(apart, widening, classes)
    value, arm = float(np.nanmean(apart)), float(stats.t.ppf((1 + LEVEL) / 2, dof)) * error
    _, p = difference_test(value, error, fewest=min(classes, default=apart.shape[-1]), dof=dof)
    furthest = scale.high - scale.low
    return Estimate(value, max(-furthest, value - arm), min(furthest, value + arm)), p


def _known(values: np.ndarray) -> np.ndarray:
    """Without the subjects whom no draw has a figure of."""
    return values[..., ~np.isnan(values).all(axis=tuple(range(values.ndim - 1)))]


def _error(known: np.ndarray, widening: float, classes: Sequence[int]) -> tuple[float, float]:
    """The standard error of a mean over (..., draws, N), each axis a sample, and its degrees of freedom."""
    last = known.ndim - 1
    parts = []
    for axis, number in enumerate(known.shape):
        if number > 1:
            means = np.nanmean(known, axis=tuple(other for other in range(known.ndim) if other != axis))
            own = (
                (widening**2, degrees_of_freedom(classes or (number,))) if axis == last else (1.0, number - 1)
            )
            parts.append((_variance_of_mean(means) * own[0], own[1]))
    return joined_error(parts)


def joined_error(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The standard error of a sum of independent parts, each a variance and its degrees of freedom, and its own.

    By Welch and Satterthwaite: how many observations the sum of the errors is as good as; one where nothing varies.
    """
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / dof for variance, dof in parts)
    return math.sqrt(total), max(1.0, total**2 / below) if below else 1.0


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values))
