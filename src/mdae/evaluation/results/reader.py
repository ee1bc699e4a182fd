"""Reading the result files of `mdae evaluate`: one record an encoder, task, protocol and contrast."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdae.errors import ConfigError, DataError
from mdae.evaluation.results.evaluation_log import FOLDER as TRIALS
from mdae.evaluation.results.schema import CONTRAST_KEY, FORMAT
from mdae.evaluation.statistics.curve import CurvePoint
from mdae.evaluation.statistics.intervals import Estimate
from mdae.interop.exposure import Exposure
from mdae.tasks.record import CONTRASTS_KEY, Task, task_from_dict

KEPT = {TRIALS, "nnunet"}  # the evaluation log; what nnU-Net works in
MEND = "give files that `mdae evaluate` wrote"


@dataclass(frozen=True)
class Cell:
    """What one encoder reached on one task, by one protocol, from one contrast.

    Attributes:
        path: the file it stands in.
        encoder, fingerprint: whose.
        task, protocol, contrast, scenario: on what.
        selection: how anything was chosen and what was scored.
        scores: figures with intervals, by name; empty if refused.
        subjects: (N,) names, each once.
        people: (N,) whose these are, where several may be of one person; else the same.
        labels, predictions: (N,); NaN where a task has none. Predictions of K > 2 classes: (N, K).
        probabilities: (N,) of the positive class, (N, K) of several, or (0,).
        ranked: (N,) numbers on one scale in all folds, for correlation, or None.
        attributes: (N,) sex, age band or site, by name; "" where it is not known.
        values: (N,) figures that each subject has of its own, by name; NaN where it has none.
        widening: how much larger standard errors are than those over subjects.
        refused: why there are no figures; "" if there are.
        trials: with how many settings the weights were scored on these subjects; None if the file does not say.
        seen: how many of the scans it was pre-trained on; None if nobody knows.
        data_set: whose subjects they are; the task's layout if the file does not say.
        weights: what tells the encoder's weights from others'; its fingerprint if the file does not say.
        exposure: whether a third-party encoder was pre-trained on the people of the data set.
        curve: figures by the number of subjects that were learned from, in the order of `subjects`; mostly none.
    """

    path: Path
    encoder: str
    fingerprint: str
    task: Task
    protocol: str
    contrast: str
    scenario: str
    selection: str
    scores: Mapping[str, Estimate]
    subjects: np.ndarray
    people: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    ranked: np.ndarray | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    widening: float = 1.0
    refused: str = ""
    trials: int | None = None
    seen: int | None = None
    data_set: str = ""
    weights: str = ""
    exposure: Exposure = Exposure()
    curve: Sequence[CurvePoint] = ()

    @property
    def place(self) -> tuple[str, str, str]:
        """Protocol, task and contrast: where encoders meet."""
        return self.protocol, self.task.name, self.contrast

    @property
    def group(self) -> str:
        """What it is averaged with: the scenario of a classification, survival, segmentations, one regression (for its
        unit)."""
        if self.task.kind == "classification" or self.task.scenario:
            return self.scenario
        return f"regression: {self.task.title}" if self.task.kind == "regression" else self.task.kind

    @property
    def pretrained_on_it(self) -> str:
        """Whether the encoder was pre-trained on the tested people: yes, in part, no or unknown."""
        if self.exposure.mark:
            words = {"seen": "yes", "shared": "in part", "unseen": "no", "unknown": "unknown"}
            return words[self.exposure.mark]
        return "unknown" if self.seen is None else f"yes, {self.seen} scans" if self.seen else "no"

    def among(self, rows: np.ndarray) -> Cell:
        """The same for some of the subjects, by row number and in that order; scores are left as they were."""
        return replace(
            self,
            subjects=self.subjects[rows],
            people=self.people[rows],
            labels=self.labels[rows],
            predictions=self.predictions[rows],
            probabilities=self.probabilities[rows] if len(self.probabilities) else self.probabilities,
            ranked=None if self.ranked is None else self.ranked[rows],
            values={name: values[rows] for name, values in self.values.items()},
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


def read_results(paths: Iterable[Path]) -> list[Cell]:
    """All cells of result files, and of the result files in folders.

    Raises:
        DataError: what is not a result file, an encoder's cell that stands in two files, or two encoders of one name.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        found = _in_folder(path) if path.is_dir() else [path]
        files.update({file.resolve(): file for file in found})
    cells = [cell for file in files.values() for cell in read_result(file)]
    _require_once(cells)
    _require_one_encoder_a_name(cells)
    return cells


def read_result(path: Path) -> list[Cell]:
    """The cells of one file.

    Raises:
        DataError: it is not there, not a result file, or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, mend=MEND) from error
    except ValueError as error:
        raise DataError("not a result file: no JSON", where=path, mend=MEND) from error
    if not isinstance(content, dict) or not {"format", "task", "encoder", "results"} <= content.keys():
        raise DataError("not a result file", where=path, mend=MEND)
    if content["format"] != FORMAT:
        raise DataError(
            f"a result file of format {content['format']}, and this version reads {FORMAT}",
            where=path,
            mend="evaluate again, or use the version that wrote it",
        )
    try:
        task = _task(content["task"])
        return [_cell(path, content, task, result) for result in content["results"]]
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise DataError(
            f"a damaged result file ({error!s:.80})", where=path, mend="evaluate again"
        ) from error


def _in_folder(folder: Path) -> list[Path]:
    """The result files of a folder and those below, but not what `mdae evaluate` keeps beside them."""
    found = (path for path in folder.rglob("*.json") if not KEPT & set(path.relative_to(folder).parts[:-1]))
    files = sorted(found)
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        raise DataError("no result file in it", where=folder, mend=MEND)
    return files


def _task(values: Mapping[str, Any]) -> Task:
    """The record, of what this version knows of it."""
    known = {item.name for item in fields(Task)} | {CONTRASTS_KEY}
    return task_from_dict({name: value for name, value in values.items() if name in known})


def _cell(path: Path, content: Mapping[str, Any], task: Task, result: Mapping[str, Any]) -> Cell:
    subjects = np.array(result.get("subjects", []), dtype=str)
    if len(np.unique(subjects)) < len(subjects):
        raise ValueError("a subject stands in it twice")
    number = len(subjects)
    people = np.array(result.get("people") or subjects, dtype=str)
    if len(people) != number:
        raise ValueError(f"{len(people)} people of {number} subjects")
    trials, seen = content.get("trials"), content.get("seen_in_pretraining")
    return Cell(
        path=path,
        encoder=str(content["encoder"]),
        fingerprint=str(content.get("fingerprint", "")),
        task=task,
        protocol=str(content["protocol"]),
        contrast=str(result[CONTRAST_KEY]),
        scenario=str(result["scenario"]),
        selection=str(content.get("selection", "")),
        scores={name: Estimate(**_numbers(figure)) for name, figure in result.get("scores", {}).items()},
        subjects=subjects,
        people=people,
        labels=_column(result, "labels", number),
        predictions=_column(result, "predictions", number),
        probabilities=_column(result, "probabilities", number)
        if result.get("probabilities")
        else np.empty(0),
        ranked=_column(result, "ranked", number) if result.get("ranked") else None,
        values={name: _of_length(values, number) for name, values in result.get("values", {}).items()},
        attributes=_attributes(content.get("attributes", {}), subjects),
        widening=float(result.get("widening", 1.0)),
        refused=str(result.get("refused", "")),
        trials=None if trials is None else int(trials),
        seen=None if seen is None else int(seen),
        data_set=str(content.get("data_set") or task.layout),
        exposure=_exposure(content.get("exposure")),
        weights=str(content.get("weights") or content.get("fingerprint", "")),
        curve=[_point(point, number) for point in result.get("curve", [])],
    )


def _attributes(known: Mapping[str, Mapping[str, str]], subjects: np.ndarray) -> dict[str, np.ndarray]:
    """Of each subject; none that is known of nobody."""
    names = dict.fromkeys(name for about in known.values() for name in about)
    each = [known.get(subject, {}) for subject in subjects.tolist()]
    columns = {name: np.array([str(about.get(name, "")) for about in each], dtype=str) for name in names}
    return {name: column for name, column in columns.items() if (column != "").any()}


def _exposure(value: Any) -> Exposure:
    """What a file says of it; files of before held words of what was seen alone."""
    if isinstance(value, Mapping):
        return Exposure(value["mark"], str(value["what"]))
    return Exposure("seen", str(value)) if value else Exposure()


def _point(point: Mapping[str, Any], number: int) -> CurvePoint:
    values = {
        name: [_of_length(draw, number).tolist() for draw in draws] for name, draws in point["values"].items()
    }
    scores = {name: Estimate(**_numbers(figure)) for name, figure in point["scores"].items()}
    return CurvePoint(int(point["size"]), values, scores, tuple(map(int, point.get("classes", ()))))


def _numbers(figure: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(figure[name]) for name in ("value", "low", "high")}


def _number(value: Any) -> float:
    """JSON has no NaN: null is."""
    return float("nan") if value is None else float(value)


def _column(result: Mapping[str, Any], name: str, number: int) -> np.ndarray:
    """A column of subjects; all NaN where the task has none."""
    return _of_length(result.get(name) or [None] * number, number)


def _of_length(values: Sequence[Any], number: int) -> np.ndarray:
    if len(values) != number:
        raise ValueError(f"{len(values)} values of {number} subjects")
    rows = [
        [_number(one) for one in value] if isinstance(value, list) else _number(value) for value in values
    ]
    return np.array(rows, dtype=float)


def _require_once(cells: Sequence[Cell]) -> None:
    """The better of two would be chosen by the test."""
    first: dict[tuple[str, ...], Cell] = {}
    for cell in cells:
        other = first.setdefault((cell.encoder, *cell.place), cell)
        if other is not cell:
            raise DataError(
                f"{cell.encoder} on {cell.task.name}, {cell.contrast}, {cell.protocol} is in {other.path} too",
                where=cell.path,
                mend="give one of the two, or evaluate with another --name",
            )


def _require_one_encoder_a_name(cells: Sequence[Cell]) -> None:
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        other = first.setdefault((cell.encoder, cell.protocol), cell)
        if other.fingerprint != cell.fingerprint:
            raise DataError(
                f"its {cell.encoder} is another encoder, or set otherwise, than that of {other.path}",
                where=cell.path,
                mend="evaluate one of them with another --name",
            )
