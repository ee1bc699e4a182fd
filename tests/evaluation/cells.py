"""Made-up cells of encoders whose true quality is known, and the result files that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from mdae.evaluation.results.reader import Cell, read_result
from mdae.evaluation.results.schema import ContrastResult, Evaluation
from mdae.evaluation.statistics.scores import classification_scores, mean_scores, regression_scores
from mdae.tasks.record import Task, scenario_of, task_from_dict


def made_up_task(name: str = "kind", kind: str = "classification", **changes: Any) -> Task:
    label = {"column": "x", "positive": ["1"]} if kind == "classification" else {"column": "x"}
    record = {
        "name": name,
        "title": f"what {name}?",
        "layout": "table",
        "kind": kind,
        "contrasts": ["T1w", "FLAIR"],
    }
    return task_from_dict(record | ({} if kind == "segmentation" else {"label": label}) | changes)


def made_up_result(
    task: Task,
    contrast: str,
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    subjects: np.ndarray | None = None,
    widening: float = 1.0,
    scenario: str = "",
) -> ContrastResult:
    """A result whose figures are computed as `mdae evaluate` does."""
    names = np.array([f"s{i:03d}" for i in range(len(labels))]) if subjects is None else subjects
    probabilities = expit(scores) if task.kind == "classification" else np.empty(0)
    values: dict[str, np.ndarray] = {}
    if task.kind == "classification":
        figures = classification_scores(labels, scores, probabilities, names, widening=widening)
    elif task.kind == "regression":
        figures = regression_scores(labels, scores, names, widening=widening)
    else:
        values = {"dice": scores, "nsd": 0.5 * scores}
        figures = mean_scores(values, names, widening=widening)
    return ContrastResult(
        contrast=contrast,
        scenario=scenario or scenario_of(task, contrast),
        scores=figures,
        subjects=names.tolist(),
        labels=[] if values else labels.tolist(),
        predictions=[] if values else scores.tolist(),
        probabilities=probabilities.tolist(),
        values={name: value.tolist() for name, value in values.items()},
        widening=widening,
    )


def evaluation(
    task: Task, encoder: str, results: list[ContrastResult], protocol: str = "linear", **changes: Any
) -> Evaluation:
    about: dict[str, Any] = {
        "fingerprint": encoder,
        "selection": "as made up",
        "settings": {},
        "excluded": {},
    }
    return Evaluation(task=task, encoder=encoder, protocol=protocol, results=results, **(about | changes))


def write(folder: Path, found: Evaluation) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.task.name}__{found.encoder}__{found.protocol}.json"
    path.write_text(json.dumps(found.to_dict()))
    return path


def cell(
    folder: Path, task: Task, encoder: str, labels: np.ndarray, scores: np.ndarray, **options: Any
) -> Cell:
    """One cell, written and read again."""
    result = made_up_result(task, options.pop("contrast", "T1w"), labels, scores, **options)
    return read_result(write(folder, evaluation(task, encoder, [result])))[0]


def bare_cell(task: Task, encoder: str, labels: np.ndarray, scores: np.ndarray, **changes: Any) -> Cell:
    """One cell without figures of its own, in memory: for simulations."""
    number = len(labels)
    about: dict[str, Any] = {
        "path": Path(encoder),
        "encoder": encoder,
        "fingerprint": encoder,
        "task": task,
        "protocol": "linear",
        "contrast": "T1w",
        "scenario": "in-domain",
        "selection": "",
        "scores": {},
        "subjects": np.array([f"s{i:03d}" for i in range(number)]),
        "people": np.array([f"s{i:03d}" for i in range(number)]),
        "labels": labels,
        "predictions": scores,
        "probabilities": expit(scores) if task.kind == "classification" else np.empty(0),
    }
    return Cell(**(about | changes))
