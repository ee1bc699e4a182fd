"""What a column of labels asks for: classes, numbers or times; and how it is scored and fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdae.errors import DataError
from mdae.evaluation.probing.cross_validation import Scored
from mdae.evaluation.probing.estimators import RIDGE, Protocol
from mdae.evaluation.probing.survival import COX
from mdae.evaluation.probing.targets import Kind, linear_protocol, read_target
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, Estimate
from mdae.evaluation.statistics.multiclass import multiclass_scores
from mdae.evaluation.statistics.scores import classification_scores, regression_scores
from mdae.evaluation.statistics.survival import survival_scores
from mdae.inference.config import FitKind
from mdae.inference.labelled import Labelled
from mdae.text import counted

UNCALIBRATED = (
    "brier",
    "calibration_error",
)  # of cross-validation's own probabilities, not of those that are kept


@dataclass(frozen=True)
class Target:
    """Labels ready to be fitted.

    Attributes:
        kind: classification, regression or survival.
        y: (N,): 0 to K - 1; numbers; or times, negative where the subject was lost.
        classes: K names; none of numbers and times.
    """

    kind: FitKind
    y: np.ndarray
    classes: tuple[str, ...] = ()

    @property
    def protocol(self) -> Protocol:
        """What is chosen, and how."""
        if self.kind == "classification":
            return linear_protocol(len(self.classes))
        return RIDGE if self.kind == "regression" else COX

    def counts(self, subjects: np.ndarray) -> dict[str, int]:
        """Subjects by class, or with and without the event; of numbers, all."""
        groups: Mapping[str, np.ndarray] = {"all": np.ones(len(self.y), bool)}
        if self.kind == "classification":
            groups = {name: self.y == index for index, name in enumerate(self.classes)}
        elif self.kind == "survival":
            groups = {"event": self.y > 0, "lost": self.y < 0}
        return {name: len(np.unique(subjects[own])) for name, own in groups.items()}

    def require_enough(self, subjects: np.ndarray, folds: int, where: object) -> None:
        """Raise `DataError` where too few subjects would be scored, as `evaluate` refuses them."""
        wanted = max(MIN_SUBJECTS, folds)
        for name, number in self.counts(subjects).items():
            if number < wanted and name != "lost":
                of = {"all": "", "event": " with the event"}.get(name, f" of class {name}")
                raise DataError(
                    f"{counted(number, 'subject')}{of}, and {wanted} are wanted to tell how well it does on new ones",
                    where=str(where),
                    mend="label more subjects, or merge classes",
                )

    def scores(self, scored: Scored, subjects: np.ndarray, widening: float, seed: int) -> dict[str, Estimate]:
        """The figures of cross-validated scores, with intervals."""
        options: dict[str, Any] = {"widening": widening, "seed": seed}
        if self.kind == "regression":
            return regression_scores(self.y, scored.scores, subjects, ranked=scored.ranked, **options)
        if self.kind == "survival":
            return survival_scores(self.y, scored.scores, subjects, **options)
        said = (self.y, scored.scores, scored.probabilities, subjects)
        found = (multiclass_scores if len(self.classes) > 2 else classification_scores)(*said, **options)
        return {name: figure for name, figure in found.items() if name not in UNCALIBRATED}


def target_of(labelled: Labelled, kind: FitKind, where: Path, positive: str = "") -> Target:
    """Read a column as what it is, or as it is asked to be.

    Raises:
        DataError: one value alone, no numbers where numbers are wanted, or events that are neither 0 nor 1.
    """
    if labelled.events is not None or kind == "survival":
        return _survival(labelled, pd.to_numeric(labelled.values, errors="coerce"), where)
    wanted: Kind = (
        "regression" if kind == "regression" else "classification" if kind == "classification" else "auto"
    )
    found = read_target(labelled.values, labelled.label, where, kind=wanted, positive=positive)
    return Target("classification" if found.classes else "regression", found.values, found.classes)


def _survival(labelled: Labelled, times: pd.Series, where: Path) -> Target:
    if labelled.events is None:
        raise DataError("survival without --event", where=str(where), mend="name the column of events")
    events = pd.to_numeric(labelled.events, errors="coerce")
    if not events.isin([0, 1]).all():
        odd = labelled.events[~events.isin([0, 1])].iloc[0]
        raise DataError(
            f"{labelled.event} is {str(odd)!r}", where=str(where), mend="write 1 for the event and 0 for lost"
        )
    if not (times > 0).all():
        odd = labelled.values[~(times > 0)].iloc[0]
        raise DataError(f"{labelled.label} is {str(odd)!r}", where=str(where), mend="give times above 0")
    return Target("survival", np.where(events == 1, times, -times).astype(float))
