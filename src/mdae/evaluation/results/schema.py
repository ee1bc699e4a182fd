"""What an evaluation comes to: figures with intervals, and the predictions that comparisons are made from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.statistics.curve import CurvePoint, curve_estimate
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, Estimate, cross_validation_widening
from mdae.evaluation.statistics.scores import mean_scores
from mdae.interop.exposure import Exposure
from mdae.tasks.record import Task, scenario_of
from mdae.text import counted
from mdae.version import __version__

FORMAT = 1
CONTRAST_KEY = "modality"  # of `ContrastResult.contrast` in files
SHOWN = 2  # figures on a terminal, whose intervals must not be cut


@dataclass(frozen=True)
class ContrastResult:
    """How well a task is told from one contrast, or from all together.

    Attributes:
        contrast: the data set's name, or `all`.
        scenario: what it is averaged with.
        scores: figures with intervals, by name.
        subjects, labels, predictions, probabilities: of the scored subjects, in one order; for paired comparisons. Of
            more than two classes, predictions and probabilities hold one number a class.
        people: whose each scored subject is, where several may be of one person; else none.
        ranked: of cross-validated numbers, the predictions on one scale in all folds, for correlation; else none.
        values: figures that each subject has of its own (Dice of a class, say), in the order of `subjects`.
        widening: how much longer the intervals are than the bootstrap's over subjects, for models that were refitted.
        refused: why there are no figures; "" if there are.
        curve: figures by the number of subjects that were learned from, if several were tried; all above is of the
            last of them, averaged over its draws.
    """

    contrast: str
    scenario: str
    scores: dict[str, Estimate] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    predictions: list[float] | list[list[float]] = field(default_factory=list)
    probabilities: list[float] | list[list[float]] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    ranked: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    widening: float = 1.0
    refused: str = ""
    curve: list[CurvePoint] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """An encoder's results on a task; what is written to its JSON file.

    Attributes:
        task: the record.
        encoder, fingerprint: whose; the fingerprint tells weights and preprocessing from others'.
        protocol: linear, knn, finetune, voxels or nnunet.
        selection: how anything was chosen and what was scored.
        settings: all that could have been set otherwise, JSON-able.
        excluded: number of subjects by reason.
        results: by contrast.
        data_set: whose subjects they are; equal names in another data set are other people.
        weights: what tells the encoder's weights from others', whatever it is called and however scans are shown to it.
        seen_in_pretraining: how many of the scored scans the encoder was pre-trained on; None if nobody knows.
        exposure: whether a third-party encoder was pre-trained on the people of the data set, as far as is known.
        trials: with how many settings these weights have been scored on some of these subjects, this one included.
            Whoever reports the best of several has selected by the test.
        attributes: sex, age band and site of each subject, as far as the data set's table tells (`Cohort.attributes`).
        fits: how each fit went, JSON-able, where there is something to tell.
    """

    task: Task
    encoder: str
    fingerprint: str
    protocol: str
    selection: str
    settings: dict[str, Any]
    excluded: dict[str, int]
    results: list[ContrastResult]
    data_set: str = ""
    weights: str = ""
    seen_in_pretraining: int | None = None
    exposure: Exposure = Exposure()
    trials: int = 1
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    fits: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy; null where a number is none."""
        about = asdict(self) | {"task": self.task.to_dict()}
        for result in about["results"]:
            result[CONTRAST_KEY] = result.pop("contrast")
        return {"format": FORMAT, "mdae": __version__, **_without_nan(about)}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def result_of_subjects(
    task: Task, contrast: str, scores: Mapping[str, Mapping[str, float]], config: EvaluateConfig
) -> ContrastResult:
    """Means over subjects with intervals, and every subject's own figures (NaN where it has none)."""
    subjects = list(scores)
    names = list(next(iter(scores.values())))
    values = {name: [scores[subject][name] for subject in subjects] for name in names}
    widening = cross_validation_widening(config.folds) if config.split is None else 1.0
    few = len(subjects) < MIN_SUBJECTS
    figures = {name: np.array(value) for name, value in values.items()}
    return ContrastResult(
        contrast=contrast,
        scenario=scenario_of(task, contrast),
        scores={} if few else mean_scores(figures, np.array(subjects), widening=widening, seed=config.seed),
        subjects=subjects,
        values=values,
        widening=widening,
        refused=f"{counted(len(subjects), 'subject')} to score, and {MIN_SUBJECTS} are wanted" if few else "",
    )


def result_of_draws(
    task: Task,
    contrast: str,
    found: Mapping[tuple[str, int], Mapping[str, Sequence[Mapping[str, float]]]],
    sizes: Mapping[str, Sequence[int]],
    config: EvaluateConfig,
) -> ContrastResult:
    """The result of the last size, averaged over its draws, and the curve over all of them.

    Args:
        task, contrast: of what.
        found: by the wanted number of subjects and the draw, every tested subject's volumes with their figures.
        sizes: by the wanted number, how many subjects were learned from in each fit.
        config: of the evaluation.
    """
    draws: dict[str, list[dict[str, dict[str, float]]]] = {}
    for (wanted, _), subjects in found.items():
        draws.setdefault(wanted, []).append({name: _mean_of(volumes) for name, volumes in subjects.items()})
    last = draws[max(draws, key=lambda wanted: np.mean(sizes[wanted]))]
    averaged = {name: _mean_of([draw[name] for draw in last]) for name in last[0]}
    result = result_of_subjects(task, contrast, averaged, config)
    if not config.train_sizes or result.refused:
        return result
    points = [
        _point(round(float(np.mean(sizes[wanted]))), own, result.subjects, result.widening)
        for wanted, own in draws.items()
    ]
    return replace(result, curve=sorted(points, key=lambda point: point.size))


def by_person(
    found: Mapping[str, Mapping[str, float]], whose: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """The figures of cases, those of one person averaged.

    Args:
        found: by case.
        whose: the person of each case.
    """
    volumes: dict[str, list[Mapping[str, float]]] = {}
    for case, figures in found.items():
        volumes.setdefault(whose[case], []).append(figures)
    return {person: _mean_of(own) for person, own in volumes.items()}


def _mean_of(volumes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over those that have it; NaN where none has."""
    means = {}
    for name in volumes[0]:
        known = [own[name] for own in volumes if not math.isnan(own[name])]
        means[name] = float(np.mean(known)) if known else math.nan
    return means


def _point(
    size: int, draws: Sequence[Mapping[str, Mapping[str, float]]], subjects: Sequence[str], widening: float
) -> CurvePoint:
    names = list(next(iter(draws[0].values())))
    values = {name: [[draw[subject][name] for subject in subjects] for draw in draws] for name in names}
    known = {name: np.array(own) for name, own in values.items() if not np.isnan(np.array(own)).all()}
    scores = {name: curve_estimate(own, widening=widening) for name, own in known.items()}
    return CurvePoint(size, values, scores)


def result_path(folder: Path, evaluation: Evaluation) -> Path:
    """Where a result is written: task, encoder and protocol make the name."""
    words = (evaluation.task.name, evaluation.encoder, evaluation.protocol)
    return folder / ("__".join(re.sub(r"[^A-Za-z0-9._+-]", "-", word) for word in words) + ".json")


def results_table(evaluation: Evaluation) -> Table:
    """The results as a table for people."""
    task = evaluation.task
    table = Table(title=f"{task.name}: {task.title} · {evaluation.encoder} · {evaluation.protocol}")
    names = next((list(result.scores) for result in evaluation.results if result.scores), [])[:SHOWN]
    told = {"classification": ["positive"], "survival": ["events"]}.get(task.kind, [])
    told = ["classes"] if task.num_classes > 2 else told
    for column in ("contrast", "subjects", *told, *(name.replace("_", " ") for name in names)):
        table.add_column(column, justify="left" if column == "contrast" else "right")
    for result in evaluation.results:
        if result.refused:
            table.add_row(result.contrast, result.refused)
            continue
        figures = (str(result.scores[name]) for name in names)
        sizes = [_sizes(task, result.labels)] if told else []
        table.add_row(result.contrast, str(len(result.subjects)), *sizes, *figures)
    table.caption = ". ".join([*_remarks(evaluation), "All figures are in the result file"])
    return table


def _sizes(task: Task, labels: Sequence[float]) -> str:
    """How many are positive, have the event, or are of each of several classes."""
    if task.num_classes > 2:
        return " / ".join(str(sum(label == k for label in labels)) for k in range(task.num_classes))
    return str(sum(label > 0 for label in labels))


def _curves(evaluation: Evaluation) -> Iterator[str]:
    """A figure by the number of labelled subjects, a contrast each."""
    metric = evaluation.task.metric
    for result in evaluation.results:
        known = {point.size: point.scores[metric] for point in result.curve if metric in point.scores}
        if known:
            values = ", ".join(f"{estimate.value:.3f} after {size}" for size, estimate in known.items())
            yield f"{result.contrast}, {metric} by subjects learned from: {values} (`mdae leaderboard` draws it)"


def _remarks(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures has to know."""
    remarks = [evaluation.selection, *_curves(evaluation)]
    if evaluation.excluded:
        others = (f"{number} {reason}" for reason, number in evaluation.excluded.items())
        remarks.append(f"Excluded: {', '.join(others)}")
    if evaluation.seen_in_pretraining:
        remarks.append(
            f"{evaluation.seen_in_pretraining} of these scans were in the encoder's pre-training: not unseen data"
        )
    if evaluation.exposure.contaminated:
        remarks.append(f"Not unseen data to this encoder: {evaluation.exposure.what}")
    if evaluation.exposure.mark == "unknown":
        remarks.append(f"Unknown whether it was pre-trained on these people: {evaluation.exposure.what}")
    if evaluation.trials > 1:
        remarks.append(
            f"Trial {evaluation.trials} of these weights on these subjects: the best of several is selected by the test"
        )
    return remarks
