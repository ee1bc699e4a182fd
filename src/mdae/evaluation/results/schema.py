"""What an evaluation comes to: figures with intervals, and the predictions that comparisons are made from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, Estimate, cross_validation_widening
from mdae.evaluation.statistics.scores import mean_scores
from mdae.tasks.record import Task, scenario_of
from mdae.version import __version__

FORMAT = 1
SHOWN = 2  # figures on a terminal, whose intervals must not be cut


@dataclass(frozen=True)
class ModalityResult:
    """How well a task is told from one modality, or from all together.

    Attributes:
        modality: the data set's name, or `all`.
        scenario: what it is averaged with.
        scores: figures with intervals, by name.
        subjects, labels, predictions, probabilities: of the scored subjects, in one order; for paired comparisons.
        values: figures that each subject has of its own (Dice of a class, say), in the order of `subjects`.
        widening: how much longer the intervals are than the bootstrap's over subjects, for models that were refitted.
        refused: why there are no figures; "" if there are.
    """

    modality: str
    scenario: str
    scores: dict[str, Estimate] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    widening: float = 1.0
    refused: str = ""


@dataclass(frozen=True)
class Evaluation:
    """An encoder's results on a task; what is written to its JSON file.

    Attributes:
        task: the record.
        encoder, fingerprint: whose; the fingerprint tells weights and preprocessing from others'.
        protocol: linear, knn, finetune, voxels or nnunet.
        selection: how anything was chosen and what was scored.
        settings: all that could have been set otherwise, JSON-able.
        left_out: number of subjects by reason.
        results: by modality.
        data_set: whose subjects they are; equal names in another data set are other people.
        weights: what tells the encoder's weights from others', whatever it is called and however scans are shown to it.
        seen_in_pretraining: how many of the scored scans the encoder was pre-trained on; None if nobody knows.
        exposure: what is known of the data set in the pre-training of somebody else's encoder; "" for nothing.
        trials: with how many settings these weights have been scored on some of these subjects, this one included.
            Whoever reports the best of several has selected by the test.
    """

    task: Task
    encoder: str
    fingerprint: str
    protocol: str
    selection: str
    settings: dict[str, Any]
    left_out: dict[str, int]
    results: list[ModalityResult]
    data_set: str = ""
    weights: str = ""
    seen_in_pretraining: int | None = None
    exposure: str = ""
    trials: int = 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy; null where a number is none."""
        return {"format": FORMAT, "mdae": __version__, **_without_nan(asdict(self))}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def result_of_subjects(
    task: Task, modality: str, scores: Mapping[str, Mapping[str, float]], config: EvaluateConfig
) -> ModalityResult:
    """Means over subjects with intervals, and every subject's own figures (NaN where it has none)."""
    subjects = list(scores)
    names = list(next(iter(scores.values())))
    values = {name: [scores[subject][name] for subject in subjects] for name in names}
    widening = cross_validation_widening(config.folds) if config.split is None else 1.0
    few = len(subjects) < MIN_SUBJECTS
    figures = {name: np.array(value) for name, value in values.items()}
    return ModalityResult(
        modality=modality,
        scenario=scenario_of(task, modality),
        scores={} if few else mean_scores(figures, np.array(subjects), widening=widening, seed=config.seed),
        subjects=subjects,
        values=values,
        widening=widening,
        refused=f"{len(subjects)} subjects to score, and {MIN_SUBJECTS} are wanted" if few else "",
    )


def result_path(folder: Path, evaluation: Evaluation) -> Path:
    """Where a result is written: task, encoder and protocol make the name."""
    words = (evaluation.task.name, evaluation.encoder, evaluation.protocol)
    return folder / ("__".join(re.sub(r"[^A-Za-z0-9._+-]", "-", word) for word in words) + ".json")


def results_table(evaluation: Evaluation) -> Table:
    """The results as a table for people."""
    task = evaluation.task
    table = Table(title=f"{task.name}: {task.title} · {evaluation.encoder} · {evaluation.protocol}")
    names = next((list(result.scores) for result in evaluation.results if result.scores), [])[:SHOWN]
    for column in ("modality", "subjects", "positive", *(name.replace("_", " ") for name in names)):
        table.add_column(column, justify="left" if column == "modality" else "right")
    for result in evaluation.results:
        if result.refused:
            table.add_row(result.modality, result.refused)
            continue
        positive = f"{sum(result.labels):.0f}" if task.kind == "classification" else "-"
        figures = (str(result.scores[name]) for name in names)
        table.add_row(result.modality, str(len(result.subjects)), positive, *figures)
    table.caption = ". ".join([*_remarks(evaluation), "All figures are in the result file"])
    return table


def _remarks(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures has to know."""
    remarks = [evaluation.selection]
    if evaluation.left_out:
        others = (f"{number} {reason}" for reason, number in evaluation.left_out.items())
        remarks.append(f"Left out: {', '.join(others)}")
    if evaluation.seen_in_pretraining:
        remarks.append(
            f"{evaluation.seen_in_pretraining} of these scans were in the encoder's pre-training: not unseen data"
        )
    if evaluation.exposure:
        remarks.append(f"Not unseen data to this encoder: {evaluation.exposure}")
    if evaluation.trials > 1:
        remarks.append(
            f"Trial {evaluation.trials} of these weights on these subjects: the best of several is selected by the test"
        )
    return remarks
