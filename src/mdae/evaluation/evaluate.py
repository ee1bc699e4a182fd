"""`mdae evaluate`: an encoder's fair trial on a task, by modality and all together, with its predictions kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mdae.data.tables import read_text_table
from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.extractors import Extractor, open_extractor
from mdae.evaluation.feature_cache import FeatureCache, default_folder
from mdae.evaluation.metrics import MIN_SUBJECTS, Estimate, cross_validation_widening
from mdae.evaluation.protocols import KNN, LINEAR, RIDGE, Protocol, cross_validate, hold_out
from mdae.evaluation.scores import classification_scores, regression_scores
from mdae.files import atomic_write
from mdae.tasks.catalogue import find_task
from mdae.tasks.layouts import Case, read_cases
from mdae.tasks.record import FUSED, Task, scenario_of
from mdae.version import __version__

FORMAT = 1


@dataclass(frozen=True)
class Cohort:
    """The labelled subjects of a task.

    Attributes:
        cases: those with the label and every wanted modality.
        labels: (N,), of the cases.
        left_out: number of others by reason.
    """

    cases: list[Case]
    labels: np.ndarray
    left_out: dict[str, int]


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
        encoder, fingerprint: whose features.
        protocol: linear or knn.
        selection: how anything was chosen and what was scored.
        left_out: number of subjects by reason.
        results: by modality.
    """

    task: Task
    encoder: str
    fingerprint: str
    protocol: str
    selection: str
    left_out: dict[str, int]
    results: list[ModalityResult]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {"format": FORMAT, "mdae": __version__, **asdict(self)}


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate and write the result; raises `ConfigError` or `DataError` for what cannot be carried out."""
    task = find_task(config.task)
    if task.kind == "segmentation":
        raise ConfigError(
            f"{task.name} is a segmentation task", mend="probes are for classification and regression"
        )
    modalities = config.modalities or task.modalities
    if unknown := [name for name in modalities if name not in task.modalities]:
        raise ConfigError(
            f"{task.name} has no modality {unknown[0]}", mend=f"use {', '.join(task.modalities)}"
        )
    protocol = _protocol(task, config)
    extractor = open_extractor(config.encoder, window=config.window, pool=config.pool, device=config.device)
    cohort = find_cohort(task, config.data, modalities)
    cohort, features = _features(cohort, modalities, extractor, config)
    parts = None if config.split is None else _parts(config.split, cohort)
    views = {name: features[name] for name in modalities}
    if len(modalities) > 1:
        views[FUSED] = np.concatenate([features[name] for name in modalities], axis=1)
    results = [_judge(task, name, matrix, cohort, parts, protocol, config) for name, matrix in views.items()]
    evaluation = Evaluation(
        task=task,
        encoder=config.name or extractor.name,
        fingerprint=extractor.fingerprint,
        protocol=protocol.name,
        selection=_selection(config, protocol),
        left_out=cohort.left_out,
        results=results,
    )
    with atomic_write(result_path(config.out, evaluation)) as temporary:
        temporary.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
    return evaluation


def result_path(folder: Path, evaluation: Evaluation) -> Path:
    """Where a result is written: task, encoder and protocol make the name."""
    words = (evaluation.task.name, evaluation.encoder, evaluation.protocol)
    return folder / ("__".join(re.sub(r"[^A-Za-z0-9._+-]", "-", word) for word in words) + ".json")


def _protocol(task: Task, config: EvaluateConfig) -> Protocol:
    if task.kind == "regression":
        if config.protocol == "knn":
            raise ConfigError("nearest neighbours are for classification", mend="use --protocol linear")
        return RIDGE
    return LINEAR if config.protocol == "linear" else KNN


def find_cohort(task: Task, data: Path, modalities: Sequence[str]) -> Cohort:
    """The subjects of a data set with the label and every wanted modality.

    Raises:
        DataError: not that data set, a table without the column, or nobody is left.
    """
    assert task.label is not None
    cases, labels = [], []
    left_out: dict[str, int] = {}
    for case in read_cases(task.layout, data):
        try:
            label = task.label.value(case.row)
        except KeyError as error:
            have = ", ".join(case.row)
            raise DataError(
                f"no column {error} for {task.name}; it has {have}", where=data, mend="check the table"
            ) from error
        absent = [name for name in modalities if name not in case.scans]
        if label is None or absent:
            reason = "no label that counts" if label is None else f"no {absent[0]}"
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            cases.append(case)
            labels.append(label)
    if not cases:
        why = ", ".join(f"{number} with {reason}" for reason, number in left_out.items())
        raise DataError(f"nobody is left for {task.name}: {why}", where=data, mend="name fewer --modalities")
    return Cohort(cases, np.array(labels), left_out)


def _features(
    cohort: Cohort, modalities: Sequence[str], extractor: Extractor, config: EvaluateConfig
) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Features by modality of the subjects of whom every scan can be embedded."""
    cache = FeatureCache(config.cache or default_folder(), extractor)
    scans = [case.scans[name] for case in cohort.cases for name in modalities]
    failed = cache.fill(scans, workers=config.workers)
    sound = [all(str(case.scans[name].path) not in failed for name in modalities) for case in cohort.cases]
    left_out = dict(cohort.left_out)
    for case in (case for case, fit in zip(cohort.cases, sound, strict=True) if not fit):
        path = next(p for p in (str(case.scans[name].path) for name in modalities) if p in failed)
        left_out[failed[path].what] = left_out.get(failed[path].what, 0) + 1
    cases = [case for case, fit in zip(cohort.cases, sound, strict=True) if fit]
    if not cases:
        path, error = next(iter(failed.items()))
        raise DataError(f"no scan can be embedded, e.g. {error.what}", where=path, mend="look at the file")
    features = {name: np.stack([_known(cache, case.scans[name]) for case in cases]) for name in modalities}
    return Cohort(cases, cohort.labels[sound], left_out), features


def _known(cache: FeatureCache, scan: Any) -> np.ndarray:
    features = cache.read(scan)
    if features is None:
        raise DataError("its features are gone from the cache", where=scan.path, mend="repeat the command")
    return features.astype(np.float64)


def _parts(path: Path, cohort: Cohort) -> np.ndarray:
    """The part of each case: train, val or test; a subject that the table does not know is in none."""
    table = read_text_table(path, "subject")
    if "split" not in table.columns:
        raise DataError("no column 'split'", where=path, mend="name who is in train, val and test")
    parts = dict(zip(table["subject"].str.removeprefix("sub-"), table["split"], strict=True))
    if len(parts) < len(table):
        raise DataError("a subject has more than one row", where=path, mend="split by subject")
    found = np.array([parts.get(case.subject.removeprefix("sub-"), "") for case in cohort.cases])
    if not {"train", "test"} <= set(found) <= {"train", "val", "test", ""}:
        raise DataError(
            f"its parts of this cohort are {', '.join(sorted(set(found)))}",
            where=path,
            mend="use train, val and test",
        )
    return found


def _judge(
    task: Task,
    modality: str,
    features: np.ndarray,
    cohort: Cohort,
    parts: np.ndarray | None,
    protocol: Protocol,
    config: EvaluateConfig,
) -> ModalityResult:
    """One modality's figures, or why there are none."""
    subjects, labels = np.array([case.subject for case in cohort.cases]), cohort.labels
    scenario = scenario_of(task, modality)
    kept = np.ones(len(labels), bool) if parts is None else parts != ""
    tested = kept if parts is None else parts == "test"
    if reason := _too_few(labels[tested], protocol, config.folds if parts is None else 1):
        return ModalityResult(modality, scenario, refused=reason)
    if parts is None:
        options = {"folds": config.folds, "repeats": config.repeats, "seed": config.seed}
        scored = cross_validate(protocol, features, labels, subjects, **options)
        widening = cross_validation_widening(config.folds)
    else:
        scored = hold_out(protocol, features, labels, subjects, parts, config.seed)
        widening = 1.0
    y, s, p, names = (values[tested] for values in (labels, scored.scores, scored.probabilities, subjects))
    if task.kind == "classification":
        figures = classification_scores(y, s, p, names, widening=widening, seed=config.seed)
    else:
        figures = regression_scores(y, s, names, widening=widening, seed=config.seed)
    return ModalityResult(
        modality=modality,
        scenario=scenario,
        scores=figures,
        subjects=names.tolist(),
        labels=y.tolist(),
        predictions=s.tolist(),
        probabilities=p.tolist() if protocol.stratified else [],
        widening=widening,
    )


def _too_few(labels: np.ndarray, protocol: Protocol, folds: int) -> str:
    """Why nothing is reported of so few subjects, if so."""
    wanted = max(MIN_SUBJECTS, folds)
    if protocol.stratified:
        fewest = min(int((labels == value).sum()) for value in (0, 1))
        return f"a class has {fewest} subjects to score, and {wanted} are wanted" if fewest < wanted else ""
    return f"{len(labels)} subjects to score, and {wanted} are wanted" if len(labels) < wanted else ""


def _selection(config: EvaluateConfig, protocol: Protocol) -> str:
    chosen = "neighbours" if protocol is KNN else "penalty"
    if config.split is not None:
        return f"{chosen} chosen on train and val subjects of {config.split.name}; test subjects scored once"
    widening = cross_validation_widening(config.folds)
    return (
        f"{config.repeats} x {config.folds}-fold cross-validation by subject; {chosen} chosen within each training "
        f"part; intervals over subjects, {widening:.2f} times as wide because models are refitted"
    )


def results_table(evaluation: Evaluation) -> Table:
    """The results as a table for people."""
    task = evaluation.task
    table = Table(title=f"{task.name}: {task.title} · {evaluation.encoder} · {evaluation.protocol}")
    names = next((list(result.scores) for result in evaluation.results if result.scores), [])
    for column in ("modality", "subjects", "positive", *(name.replace("_", " ") for name in names)):
        table.add_column(column, justify="left" if column == "modality" else "right")
    for result in evaluation.results:
        if result.refused:
            table.add_row(result.modality, result.refused)
            continue
        positive = "-" if task.kind == "regression" else f"{sum(result.labels):.0f}"
        figures = (str(result.scores[name]) for name in names)
        table.add_row(result.modality, str(len(result.subjects)), positive, *figures)
    others = ", ".join(f"{number} {reason}" for reason, number in evaluation.left_out.items())
    table.caption = evaluation.selection + (f". Left out: {others}" if others else "")
    return table
