"""A probe's figure against the number of labelled subjects that it learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mdae.evaluation.cohort import Cohort, tested_rows
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.draws import ALL, TrainingDraw, training_draw
from mdae.evaluation.probing.cross_validation import Scored, cross_validate, hold_out
from mdae.evaluation.probing.estimators import Protocol
from mdae.evaluation.results.figures import weighted_figures
from mdae.evaluation.results.schema import ContrastResult
from mdae.evaluation.statistics.curve import CurvePoint, curve_estimate, pseudo_values
from mdae.evaluation.statistics.intervals import SHARE, class_sizes
from mdae.evaluation.statistics.scores import SCALES
from mdae.seeding import key
from mdae.tasks.record import Task


def groups_of(task: Task, labels: np.ndarray) -> np.ndarray:
    """(N,) numbers of the groups of which every draw holds somebody: classes, event or not, or one of all."""
    if task.num_classes:
        return labels.astype(int)
    return (labels > 0).astype(int) if task.kind == "survival" else np.zeros(len(labels), dtype=int)


@dataclass(frozen=True)
class LabelCurve:
    """A figure of a task after so many labelled subjects each, the same subjects for every encoder.

    Of a given split, draws are of its train and val subjects together. Cross-validated, each draw is a
    cross-validation of its own, of whose training parts so many subjects are learned from; all of them are one draw.
    A figure of ranks is no subject's own, so a point keeps each subject's jackknife pseudo-value, whose mean it is.

    Args:
        task: whose figure.
        protocol: of the probe.
        cohort: N cases.
        parts: (N,) of train, val and test; None for cross-validation.
        config: sizes, draws, folds, repeats and seed.
    """

    task: Task
    protocol: Protocol
    cohort: Cohort
    parts: np.ndarray | None
    config: EvaluateConfig

    def added_to(self, result: ContrastResult, features: np.ndarray) -> ContrastResult:
        """A result with its curve; as it is where nothing was scored.

        Args:
            result: of all labelled subjects.
            features: (N, F) that it was made from.

        Raises:
            DataError: more subjects are asked for than there are.
        """
        if result.refused:
            return result
        points = [self._point(wanted, result, features) for wanted in dict.fromkeys(self.config.train_sizes)]
        return replace(result, curve=sorted(points, key=lambda point: point.size))

    def _point(self, wanted: str, result: ContrastResult, features: np.ndarray) -> CurvePoint:
        people = self.cohort.people[self._tested]
        groups = groups_of(self.task, self.cohort.labels)
        name = self.task.metric
        fits = [self._of_all(result)] if wanted == ALL else self._fits(wanted, features, groups)
        values, learned = [], []
        for number, scored in fits:
            figures = weighted_figures(
                self.task, self.cohort.labels[self._tested], scored.scores, scored.probabilities
            )
            values.append(pseudo_values(figures[name], people))
            learned.append(number)
        classes = class_sizes(people, groups[self._tested]) if groups.any() else ()
        estimate = curve_estimate(
            np.array(values), widening=result.widening, scale=SCALES.get(name, SHARE), classes=classes
        )
        kept = {name: [own.tolist() for own in values]}
        return CurvePoint(round(float(np.mean(learned))), kept, {name: estimate}, classes)

    @property
    def _tested(self) -> np.ndarray:
        return tested_rows(self.parts, len(self.cohort.labels))

    def _of_all(self, result: ContrastResult) -> tuple[float, Scored]:
        """How many subjects a result was learned from, and its scores."""
        scored = Scored(np.array(result.predictions), np.array(result.probabilities), [])
        if self.parts is not None:
            return len(np.unique(self.cohort.people[~self._tested])), scored
        return len(np.unique(self.cohort.people)) * (self.config.folds - 1) / self.config.folds, scored

    def _fits(self, wanted: str, features: np.ndarray, groups: np.ndarray) -> Iterator[tuple[float, Scored]]:
        """The scores of the tested cases after each draw of so many."""
        labels, people, seed = self.cohort.labels, self.cohort.people, self.config.seed

        def drawn(rows: np.ndarray, draw: int) -> TrainingDraw:
            return training_draw(rows, people, wanted, draw, seed, groups=groups)

        for number in range(self.config.draws):
            if self.parts is not None:
                draw = drawn(np.flatnonzero(np.isin(self.parts, ("train", "val"))), number)
                parts = np.where(self._tested, "test", "").astype("<U5")
                parts[draw.rows] = "train"
                scored = hold_out(self.protocol, features, labels, people, parts, seed)
                yield draw.size, scored.among(self._tested)
                continue
            scored = cross_validate(
                self.protocol,
                features,
                labels,
                people,
                folds=self.config.folds,
                repeats=1,
                seed=key(seed, "labels", number) % 2**32,
                learned=lambda train, number=number: drawn(train, number).rows,  # type: ignore[misc]
            )
            yield int(wanted), scored
