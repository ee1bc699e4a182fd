"""A label told from frozen features at each validation: fitted on those trained on, judged on those held out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdae.data.ahead import ahead
from mdae.data.stack import Stack, read
from mdae.data.store import StoredScan
from mdae.errors import DataError
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.probing.cross_validation import hold_out
from mdae.evaluation.probing.targets import Target
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, Estimate, auroc
from mdae.evaluation.statistics.multiclass import multiclass_scores
from mdae.evaluation.statistics.scores import regression_scores
from mdae.networks.saved import SavedModel
from mdae.training.diagnostics import Moment
from mdae.training.diagnostics.rising import PATIENCE, Rising
from mdae.training.run import Run

READERS = 2  # threads that read while the device computes
NAMES = {"auroc": "AUROC", "pearson_r": "Pearson's r"}

logger = logging.getLogger(__name__)


def encoder_of(moment: Moment) -> Encoder:
    """The encoder as it stands, as `mdae embed` would use it."""
    run = moment.run
    network, channels = moment.learner.raw.network, run.config.channels
    model = SavedModel(network, run.store.contract, run.patch, channels=channels)
    return Encoder(model, moment.learner.device)


def embedded(moment: Moment, scans: Sequence[StoredScan | Stack]) -> np.ndarray:
    """The features (N, F) of scans, as `mdae embed` makes them; the work is dealt over the processes."""
    encoder, world = encoder_of(moment), moment.world
    mine = range(world.place.rank, len(scans), world.size)
    found: dict[int, np.ndarray] = {}
    for index, volume in ahead(mine, lambda i: read(moment.run.store, scans[i]), READERS):
        found[index] = encoder.embed_volume(volume.result().astype(np.float32), scans[index].background)
    everyone = {index: row for part in world.everywhere(found) for index, row in part.items()}
    return np.stack([everyone[index] for index in range(len(scans))]).astype(np.float64)


@dataclass(frozen=True)
class Labelled:
    """Scans with a label, one a subject.

    Attributes:
        scans: N.
        target: their labels.
        parts: (N,) "train" of those trained on, "test" of those held out.
    """

    scans: list[StoredScan | Stack]
    target: Target
    parts: np.ndarray

    @property
    def figure(self) -> str:
        """What is told of it."""
        return "auroc" if self.target.classes else "pearson_r"

    def require_enough(self, label: str, where: Path) -> None:
        """Raise `DataError` where an interval, or a fit, would mean nothing."""
        held_out = self.parts == "test"
        for part, rows, wanted in (("held out", held_out, MIN_SUBJECTS), ("trained on", ~held_out, 2)):
            values = self.target.values[rows]
            sizes = {name: int((values == k).sum()) for k, name in enumerate(self.target.classes)}
            for name, number in (sizes or {"": len(values)}).items():
                if number < wanted:
                    whose = f" of {label} {name}" if name else f" with {label}"
                    raise DataError(
                        f"{number} subjects{whose} are {part}, and the probe needs {wanted}",
                        where=where,
                        mend="hold out another share (--val-fraction, or mdae split --labels and --split)",
                    )

    def judge(self, features: np.ndarray, seed: int) -> Estimate:
        """How well the label of those held out is told from features (N, F)."""
        subjects = np.array([scan.subject for scan in self.scans])
        target, tested = self.target, self.parts == "test"
        scored = hold_out(target.protocol, features, target.values, subjects, self.parts, seed)
        labels, scores, who = target.values[tested], scored.scores[tested], subjects[tested]
        if not target.classes:
            return regression_scores(labels, scores, who)["pearson_r"]
        if len(target.classes) == 2:
            return auroc(labels, scores, who)
        return multiclass_scores(labels, scores, scored.probabilities[tested], who)["auroc"]


class Probe:
    """One label, its figure with its interval at each look.

    Args:
        table: the name of its table.
        label: the label's.
        labelled: who has it.
        run: whose.
        rises: whether it is wanted to rise; of a scanner it is not.
    """

    def __init__(self, table: str, label: str, labelled: Labelled, run: Run, *, rises: bool = True) -> None:
        self.table, self.label, self.labelled, self.run, self.rises = table, label, labelled, run, rises
        self.rising: Rising | None = None
        self.said = False

    def look(self, moment: Moment) -> Mapping[str, float]:
        """The figure, `low` and `high` of its 95 % interval, and for how many looks it has not risen."""
        features = embedded(moment, self.labelled.scans)
        if not moment.world.lead or not np.isfinite(features).all():
            return {}
        estimate = self.labelled.judge(features, self.run.config.seed)
        if self.rising is None:
            self.rising = Rising(self.labelled.figure)
            self.rising.take_up(self.run.config.out / f"{self.table}.csv", moment.step)
        since = self.rising.add(moment.step, estimate.value, estimate.low, estimate.high)
        row = {self.labelled.figure: estimate.value, "low": estimate.low, "high": estimate.high}
        if not self.rises:
            return row
        self._say(since, self.rising, moment.step)
        return {**row, "looks_since_best": float(since)}

    def _say(self, since: int, rising: Rising, step: int) -> None:
        if since >= PATIENCE and not self.said:
            logger.warning(
                "step %d: the probe of %s has not risen for %d looks; its best %s was %.3f at step %d (%s.csv)",
                *(
                    step,
                    self.label,
                    since,
                    NAMES[self.labelled.figure],
                    rising.best,
                    rising.best_step,
                    self.table,
                ),
            )
        self.said = since >= PATIENCE
