"""Two encoders on the same subjects: differences of figures, and of averages over the cells of a scenario.

An AUROC is compared by DeLong's test; all else by a bootstrap of subjects. Its draws are Dirichlet weights (Rubin 1981,
the Bayesian bootstrap) rather than counts: they vary as much, and no draw is without a class, which matters because all
tasks and contrasts of a data set share one draw of its subjects and cannot each be stratified by their own label. So
what cells have in common, a hard subject or a lucky cohort, is in the error of their average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.results.figures import weighted_figures
from mdae.evaluation.results.reader import Cell
from mdae.evaluation.statistics.intervals import (
    MIN_SUBJECTS,
    SHARE,
    Estimate,
    Weighted,
    degrees_of_freedom,
    furthest_from_perfect,
    stretched_estimate,
)
from mdae.evaluation.statistics.scores import SCALES, mean_figure
from mdae.evaluation.statistics.tests import delong, difference_test
from mdae.seeding import numpy_generator

REPLICATES = 1000  # for standard errors, which they give to 2 %
LOWER_IS_BETTER = ("brier", "calibration_error", "mae")
NOT_COMPARED = ("calibration_error",)  # above 0 by chance alone, and the more the fewer subjects


def sign_of(metric: str) -> int:
    """1 if more of a figure is better, -1 if less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


@dataclass(frozen=True)
class Difference:
    """By how much a figure of one encoder is above another's.

    Attributes:
        estimate: the difference with its 95 % interval.
        p: two-sided, of no difference.
        num_subjects: on how many it rests, the fewest where it is an average.
        num_cells: over how many cells it is an average.
    """

    estimate: Estimate
    p: float
    num_subjects: int
    num_cells: int = 1


class SubjectDraws:
    """One draw of subjects a data set, the same for every cell, encoder and figure.

    Args:
        cells: all that will be compared; a data set's subjects are those of its cells, by name.
        seed: of the draws.
        replicates: number of draws.
    """

    def __init__(self, cells: Iterable[Cell], seed: int = 0, replicates: int = REPLICATES) -> None:
        names: dict[str, set[str]] = {}
        for cell in cells:
            names.setdefault(_data_set(cell), set()).update(cell.people.tolist())
        self.names = {data_set: np.array(sorted(found)) for data_set, found in names.items()}
        self._weights = {
            data_set: numpy_generator(seed, f"subjects of {data_set}").standard_exponential(
                (replicates, len(found))
            )
            for data_set, found in self.names.items()
        }
        self._known: dict[tuple[object, ...], tuple[float, np.ndarray]] = {}

    def weights(self, cell: Cell) -> np.ndarray:
        """Weights (R, N) of the cell's subjects; those of a person are drawn together."""
        data_set = _data_set(cell)
        return np.asarray(self._weights[data_set][:, np.searchsorted(self.names[data_set], cell.people)])

    def deviations(self, cell: Cell, metric: str) -> tuple[float, np.ndarray]:
        """A figure, and by how much each draw's is above it (R,), scaled so that their spread is its standard error.

        The scaling makes up for the division by N + 1 of a bootstrap of few, and for models that were refitted
        (`Cell.widening`).
        """
        key = (cell.encoder, _data_set(cell), *cell.place, metric, cell.subjects.tobytes())
        if key not in self._known:
            figure, fewest = figures_of(cell)[metric], fewest_of([cell])
            value = float(figure(np.ones((1, len(cell.subjects))))[0])
            factor = cell.widening * math.sqrt((fewest + 1) / (fewest - 1))
            self._known[key] = value, factor * (figure(self.weights(cell)) - value)
        return self._known[key]


def _data_set(cell: Cell) -> str:
    return cell.data_set or cell.task.layout


def figures_of(cell: Cell) -> dict[str, Weighted]:
    """What can be computed again from a cell's predictions, as functions of weights of its subjects."""
    figures = weighted_figures(cell.task, cell.labels, cell.predictions, cell.probabilities, cell.ranked)
    figures |= {name: mean_figure(values) for name, values in cell.values.items()}
    return {name: figure for name, figure in figures.items() if name not in NOT_COMPARED}


def paired(first: Cell, second: Cell, metric: str) -> tuple[Cell, Cell]:
    """Two encoders' cells of the same place on the subjects they have in common, in one order.

    A scan that one encoder cannot embed must not end a comparison; so it is on the common subjects, whose number is
    always shown.

    Raises:
        DataError: why they cannot be compared.
    """
    if first.place != second.place:
        raise DataError(f"{first.place} and {second.place} are different trials", where=second.path)
    if reason := next((cell.refused for cell in (first, second) if cell.refused), ""):
        raise DataError(reason, where=first.path)
    if first.widening != second.widening:
        raise DataError("one is cross-validated otherwise than the other", where=second.path)
    for cell in (first, second):
        if metric not in figures_of(cell):
            raise DataError(f"no {metric.replace('_', ' ')} by subject", where=cell.path)
    _, mine, theirs = np.intersect1d(first.subjects, second.subjects, return_indices=True)
    if metric in first.values:
        known = np.isfinite(first.values[metric][mine]) & np.isfinite(second.values[metric][theirs])
        mine, theirs = mine[known], theirs[known]
    one, other = first.among(mine), second.among(theirs)
    if not np.array_equal(one.labels, other.labels, equal_nan=True):
        differing = int((one.labels != other.labels).sum())
        raise DataError(f"the labels of {differing} subjects differ", where=second.path)
    if fewest_of([one]) < MIN_SUBJECTS:
        raise DataError(f"{len(mine)} subjects in common are too few", where=second.path)
    return one, other


def class_sizes_of(cell: Cell) -> tuple[int, ...]:
    """Number of people with each class, the last first; with an event; or of all where there is neither."""
    if cell.task.kind == "survival":
        return (len(np.unique(cell.people[cell.labels > 0])),)
    if not cell.task.num_classes:
        return (len(np.unique(cell.people)),)
    classes = reversed(range(cell.task.num_classes))
    return tuple(len(np.unique(cell.people[cell.labels == value])) for value in classes)


def fewest_of(cells: Iterable[Cell]) -> int:
    """Number of subjects of the smallest class of any cell."""
    return min(min(class_sizes_of(cell)) for cell in cells)


def subject_dof(cells: Iterable[Cell]) -> float:
    """Degrees of freedom of an error over subjects, the fewest of any cell."""
    return min(degrees_of_freedom(class_sizes_of(cell)) for cell in cells)


def interval_of(
    value: float, error: float, cells: Sequence[Cell], metric: str, *, dof: float | None = None
) -> Estimate:
    """A figure of some cells with its interval, in whatever table it stands.

    Args:
        value, error: the figure, and its standard error with all that widens it.
        cells: what it is of.
        metric: the figure.
        dof: of the error; of one over subjects (`subject_dof`) if left out.
    """
    return stretched_estimate(
        value,
        error,
        scale=SCALES.get(metric, SHARE),
        dof=subject_dof(cells) if dof is None else dof,
        perfect=furthest_from_perfect(fewest_of(cells), max(cell.widening for cell in cells)),
    )


def compare(first: Cell, second: Cell, metric: str, draws: SubjectDraws) -> Difference:
    """A figure of `first` less that of `second`: DeLong for an AUROC of two classes, else by the bootstrap of `draws`.

    Raises:
        DataError: why they cannot be compared.
    """
    one, other = paired(first, second, metric)
    number = len(one.subjects)
    if metric == "auroc" and one.task.num_classes == 2:
        estimate, p = delong(
            one.labels, one.predictions, other.predictions, widening=one.widening, people=one.people
        )
        return Difference(estimate, p, number)
    return _difference([(one, other)], metric, draws)


def compare_averages(
    pairs: Sequence[tuple[Cell, Cell]], metric: str, draws: SubjectDraws
) -> Difference | None:
    """The mean over cells of the differences of two encoders; None where no cell can be compared.

    Args:
        pairs: cells of the first and of the second, each pair of one place.
        metric, draws: as in `compare`.
    """
    comparable = []
    for first, second in pairs:
        try:
            comparable.append(paired(first, second, metric))
        except DataError:
            continue  # its reason stands at the cell's own comparison
    return _difference(comparable, metric, draws) if comparable else None


def _difference(pairs: Sequence[tuple[Cell, Cell]], metric: str, draws: SubjectDraws) -> Difference:
    values, deviations = [], []
    for one, other in pairs:
        (first, of_first), (second, of_second) = (draws.deviations(cell, metric) for cell in (one, other))
        values.append(first - second)
        deviations.append(of_first - of_second)
    scale, fewest = SCALES.get(metric, SHARE), min(len(one.subjects) for one, _ in pairs)
    error = float(np.mean(deviations, axis=0).std())
    estimate, p = difference_test(
        float(np.mean(values)),
        error,
        fewest=fewest_of(one for one, _ in pairs),
        dof=subject_dof(one for one, _ in pairs),
        bound=scale.high - scale.low,
        same=all(_same(one, other, metric) for one, other in pairs),
    )
    return Difference(estimate, p, fewest, len(pairs))


def _same(one: Cell, other: Cell, metric: str) -> bool:
    """Whether the figure of both is computed from the same numbers."""
    if metric in one.values:
        return np.array_equal(one.values[metric], other.values[metric])
    return np.array_equal(one.predictions, other.predictions) and np.array_equal(
        one.probabilities, other.probabilities
    )


def average(cells: Sequence[Cell], metric: str, draws: SubjectDraws) -> Estimate:
    """The mean of a figure over cells, with an interval over subjects: of these tasks, not of tasks in general."""
    found = [draws.deviations(cell, metric) for cell in cells]
    value = float(np.mean([value for value, _ in found]))
    error = float(np.mean([deviations for _, deviations in found], axis=0).std())
    return interval_of(value, error, cells, metric)
