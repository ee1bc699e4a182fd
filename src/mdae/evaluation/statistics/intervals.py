"""AUROC and average precision with intervals that resample subjects, not scans."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from mdae.errors import DataError
from mdae.seeding import numpy_generator
from mdae.text import counted

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

    def signed(self) -> str:
        """As a difference is written."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def widened(self, factor: float, *, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
        """The same value with both arms of the interval `factor` times as long, within what is possible."""
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return Estimate(self.value, max(bounds[0], low), min(bounds[1], high))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


@dataclass(frozen=True)
class Scale:
    """A range of a figure, and the increasing map that stretches it to all numbers.

    Attributes:
        low, high: the ends of the range.
        stretch: the map; `shrink` is its inverse and `slope` its derivative, all of a figure inside the range.
    """

    low: float
    high: float
    stretch: Callable[[Any], Any]
    shrink: Callable[[float], float]
    slope: Callable[[float], float]


SHARE = Scale(0.0, 1.0, logit, expit, lambda v: 1 / (v * (1 - v)))
SIZE = Scale(0.0, math.inf, math.log, math.exp, lambda v: 1 / v)
# e^50 below 0 is as good as no end, and JSON can hold it
EXPLAINED = Scale(
    -math.inf, 1.0, lambda v: -np.log1p(-v), lambda x: -math.expm1(min(-x, 50.0)), lambda v: 1 / (1 - v)
)
CORRELATION = Scale(-1.0, 1.0, math.atanh, math.tanh, lambda v: 1 / (1 - v * v))

Weighted = Callable[[np.ndarray], np.ndarray]  # weights of rows (R, N) to a figure (R,)


def bootstrap_estimate(
    figure: Weighted,
    weights: np.ndarray,
    sizes: tuple[int, ...],
    *,
    scale: Scale = SHARE,
    widening: float = 1.0,
) -> Estimate:
    """A figure of all rows, with an interval by its standard error over weightings on the stretched scale.

    The percentiles of the same replicates are too narrow for few subjects and for figures near the end of their range:
    for an AUROC of 0.95 and ten subjects a class they hold the truth in 79 % of simulations, these in 99 %
    (`benchmarks/coverage.py`).

    Args:
        figure: of weights (R, N); may be NaN in single replicates.
        weights: (R, N), from `subject_weights`.
        sizes: number of subjects in each class that was drawn from.
        scale: the figure's range.
        widening: how much longer the arms are, for models that were refitted (`cross_validation_widening`).
    """
    value, fewest = float(figure(np.ones((1, weights.shape[1])))[0]), min(sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = _spread_of(figure(weights), value, scale)
    return stretched_estimate(
        value,
        widening * math.sqrt(fewest / (fewest - 1)) * spread,  # the bootstrap divides by n
        scale=scale,
        dof=degrees_of_freedom(sizes),
        perfect=furthest_from_perfect(fewest, widening),
    )


def _spread_of(replicates: np.ndarray, value: float, scale: Scale) -> float:
    """The standard deviation of replicates; of what has no lower end, as seen on the stretched scale.

    A share's replicates may lie at its ends, which no scale stretches. Those of R squared have a long tail instead,
    where a draw holds nearly one label alone.
    """
    if math.isfinite(scale.low) or value >= scale.high:
        return float(np.nanstd(replicates))
    stretched = np.asarray(scale.stretch(replicates))
    return float(np.std(stretched[np.isfinite(stretched)])) / scale.slope(value)


def stretched_estimate(value: float, error: float, *, scale: Scale, dof: float, perfect: float) -> Estimate:
    """The interval of a figure by its standard error, on the stretched scale, so that it stays within the range.

    Args:
        value, error: of the figure.
        scale: its range.
        dof: degrees of freedom of the error.
        perfect: the arm of a share that is 0 or 1, whose error is 0 whatever the truth (`furthest_from_perfect`).
    """
    if not scale.low < value < scale.high:
        arm = perfect if scale is SHARE else 0.0
        return Estimate(value, max(scale.low, value - arm), min(scale.high, value + arm))
    arm = float(stats.t.ppf((1 + LEVEL) / 2, dof)) * error * scale.slope(value)
    place = scale.stretch(value)
    return Estimate(value, float(scale.shrink(place - arm)), float(scale.shrink(place + arm)))


def degrees_of_freedom(sizes: Sequence[int]) -> float:
    """Of a standard error over subjects who are drawn within classes, by Welch and Satterthwaite.

    Each class's part of the variance is taken as one over its size: estimated from the same few subjects it would be
    small where the error is too small as well. The number of all subjects, of whom most say little of the error where
    classes are unequal, made intervals of 5 against 200 subjects hold the truth in 84 to 89 % of studies.

    Args:
        sizes: number of subjects of each class, or of all alone where there are no classes; at least 2.
    """
    parts = [1 / size for size in sizes]
    return sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))


def furthest_from_perfect(fewest: int, widening: float = 1.0) -> float:
    """How far below 1 a share may be when all went right, with 97.5 % confidence, whatever the distributions.

    An AUROC of 1 means that `fewest` disjoint pairs of one positive and one negative are all in order, which has at
    most the probability AUROC^fewest (for a share of correct answers it is Clopper and Pearson's limit).
    """
    return float(1 - ((1 - LEVEL) / 2) ** (widening**2 / fewest))


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

    Subjects are drawn within their class, so that no replicate is without one; from all alike where nearly everybody
    has rows of the highest.

    Args:
        subjects: (N,).
        labels: (N,) of 0 and 1, or 0 to K - 1. A subject with rows of several is in the highest one.
        seed: of the draws.
        replicates: their number R.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects in a class.
    """
    if (fewest := min(class_sizes(subjects, labels))) < MIN_SUBJECTS:
        raise DataError(
            f"a class has {counted(fewest, 'subject')}: an interval needs at least {MIN_SUBJECTS} of each",
            mend="label more subjects",
        )
    names, index, highest = classes_of(subjects, labels)
    if min(_sizes(highest, labels)) < MIN_SUBJECTS:
        highest[:] = 0
    rng = numpy_generator(seed, "bootstrap")
    counts = np.zeros((replicates, len(names)))
    for value in np.unique(highest)[::-1]:
        members = np.flatnonzero(highest == value)
        counts[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), replicates
        )
    return counts[:, index]


def classes_of(subjects: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The subjects' names, each row's index among them, and each subject's highest class."""
    names, index = np.unique(subjects, return_inverse=True)
    highest = np.zeros(len(names), dtype=int)
    np.maximum.at(highest, index, labels.astype(int))
    return names, index, highest


def _classes(labels: np.ndarray) -> range:
    """All classes, highest first; two at least."""
    return range(max(1, int(labels.max())), -1, -1)


def class_sizes(subjects: np.ndarray, labels: np.ndarray) -> tuple[int, ...]:
    """Number of subjects of each class, the highest first: with a positive row, and without.

    Where too few are without, as of patients of whom each has a malignant nodule, those with a row of each class.
    """
    _, _, highest = classes_of(subjects, labels)
    sizes = _sizes(highest, labels)
    if min(sizes) >= MIN_SUBJECTS:
        return sizes
    return tuple(len(np.unique(subjects[labels == value])) for value in _classes(labels))


def _sizes(highest: np.ndarray, labels: np.ndarray) -> tuple[int, ...]:
    return tuple(int((highest == value).sum()) for value in _classes(labels))


def auroc(
    labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray, *, widening: float = 1.0, seed: int = 0
) -> Estimate:
    """Area under the ROC curve, its interval by a bootstrap of subjects; arguments as `bootstrap_estimate`."""
    weights, sizes = subject_weights(subjects, labels, seed), class_sizes(subjects, labels)
    return bootstrap_estimate(lambda w: weighted_auroc(labels, scores, w), weights, sizes, widening=widening)


def average_precision(
    labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray, *, widening: float = 1.0, seed: int = 0
) -> Estimate:
    """Average precision, its interval by a bootstrap of subjects; arguments as `bootstrap_estimate`."""
    weights, sizes = subject_weights(subjects, labels, seed), class_sizes(subjects, labels)
    return bootstrap_estimate(
        lambda w: weighted_average_precision(labels, scores, w), weights, sizes, widening=widening
    )


def within_classes(
    figures: Mapping[str, Weighted], labels: np.ndarray, subjects: np.ndarray, *, widening: float, seed: int
) -> dict[str, Estimate]:
    """Figures of classes with their intervals: subjects are drawn whole, within their class (`subject_weights`).

    Raises:
        DataError: a class has fewer than `MIN_SUBJECTS` subjects.
    """
    weights, sizes = subject_weights(subjects, labels, seed), class_sizes(subjects, labels)
    return {
        name: bootstrap_estimate(figure, weights, sizes, widening=widening)
        for name, figure in figures.items()
    }
