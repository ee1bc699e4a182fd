"""What a sweep's runs come to: each variant's mean over seeds, with an interval that knows of subjects and of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdae.evaluation.results.paired import SubjectDraws, fewest_of, interval_of, paired, subject_dof
from mdae.evaluation.results.reader import Cell
from mdae.evaluation.statistics.intervals import SHARE, Estimate
from mdae.evaluation.statistics.scores import SCALES
from mdae.evaluation.statistics.tests import difference_test, holm


@dataclass(frozen=True)
class Row:
    """A variant on one task and contrast.

    Attributes:
        variant, task, contrast, protocol, metric: what and where.
        num_seeds, num_subjects: of how many runs, on how many subjects.
        estimate: the mean over seeds with its 95 % interval.
        seed_sd: the standard deviation over seeds; NaN of one.
        difference, p, p_holm: from the baseline's mean, None for the baseline itself; Holm over all variants and
            places.
    """

    variant: str
    task: str
    contrast: str
    protocol: str
    metric: str
    num_seeds: int
    num_subjects: int
    estimate: Estimate
    seed_sd: float
    difference: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and where its error comes from.

    Attributes:
        value: the mean.
        by_seed: (S,) what it is the mean of.
        by_subject: standard error over subjects, given these seeds.
        subject_dof: its degrees of freedom.
        num_subjects: on how many it rests.
    """

    value: float
    by_seed: np.ndarray
    by_subject: float
    subject_dof: float
    num_subjects: int

    @property
    def seed_variance(self) -> float:
        """Of the mean, from seed to seed; 0 if there is one, of which nothing can be told."""
        number = len(self.by_seed)
        return float(self.by_seed.var(ddof=1)) / number if number > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error over other subjects and other seeds. What folds add to seeds is counted in both: never too
        small."""
        return float(np.sqrt(self.by_subject**2 + self.seed_variance))

    @property
    def dof(self) -> float:
        """Of the error, by Welch and Satterthwaite."""
        parts = [(self.by_subject**2, self.subject_dof), (self.seed_variance, len(self.by_seed) - 1)]
        below = sum(variance**2 / dof for variance, dof in parts if variance > 0 and dof > 0)
        return self.error**4 / below if below > 0 else self.subject_dof


def summarise(
    cells: Mapping[str, Mapping[int, Cell]], baseline: str, metric: str, draws: SubjectDraws
) -> list[Row]:
    """Each variant's row at one place, compared with the baseline's.

    Args:
        cells: by variant, one a seed.
        baseline: a variant's name.
        metric: what is compared.
        draws: of subjects, the same for all.
    """
    rows = []
    for variant, by_seed in cells.items():
        own = list(by_seed.values())
        first = own[0]
        spread = _spread([draws.deviations(cell, metric) for cell in own], own)
        estimate = interval_of(spread.value, spread.error, own, metric, dof=spread.dof)
        sd = float(spread.by_seed.std(ddof=1)) if len(own) > 1 else float("nan")
        difference, p = (None, None)
        if variant != baseline and (shared := sorted(by_seed.keys() & cells.get(baseline, {}).keys())):
            pairs = [(by_seed[seed], cells[baseline][seed]) for seed in shared]
            difference, p = difference_of(pairs, metric, draws)
        rows.append(
            Row(
                variant=variant,
                task=first.task.name,
                contrast=first.contrast,
                protocol=first.protocol,
                metric=metric,
                num_seeds=len(own),
                num_subjects=spread.num_subjects,
                estimate=estimate,
                seed_sd=sd,
                difference=difference,
                p=p,
            )
        )
    return rows


def difference_of(
    pairs: Sequence[tuple[Cell, Cell]], metric: str, draws: SubjectDraws
) -> tuple[Estimate, float]:
    """The mean of one variant less that of another over seeds, with its interval and two-sided p.

    Args:
        pairs: both at one seed, where weights and crops begin alike. Subjects are paired as well.
        metric: what is compared.
        draws: of subjects.
    """
    deviations, cells = [], []
    for one, other in pairs:
        both = paired(one, other, metric)
        (a, of_a), (b, of_b) = (draws.deviations(cell, metric) for cell in both)
        deviations.append((a - b, of_a - of_b))
        cells.append(both[0])
    spread = _spread(deviations, cells)
    scale = SCALES.get(metric, SHARE)
    return difference_test(
        spread.value,
        spread.error,
        fewest=fewest_of(cells),
        dof=spread.dof,
        bound=scale.high - scale.low,
        same=spread.error == 0 and spread.value == 0,
    )


def _spread(deviations: Sequence[tuple[float, np.ndarray]], cells: Sequence[Cell]) -> Spread:
    values = np.array([value for value, _ in deviations])
    by_subject = float(np.mean([found for _, found in deviations], axis=0).std())
    return Spread(float(values.mean()), values, by_subject, subject_dof(cells), len(cells[0].subjects))


def adjusted(rows: Sequence[Row]) -> list[Row]:
    """The rows with Holm's p over all that have one."""
    tested = [row for row in rows if row.p is not None]
    values = iter(holm([row.p for row in tested if row.p is not None]))
    return [replace(row, p_holm=next(values)) if row.p is not None else row for row in rows]
