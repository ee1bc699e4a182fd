"""What a benchmark task is: a record of data, nothing that runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from mdae.errors import ConfigError

Kind = Literal["classification", "regression", "survival", "segmentation"]
KINDS = get_args(Kind)
ANY = "*"
CONTRASTS_KEY = "modalities"  # of `Task.contrasts` in result files; a record may have either word
MISSING = (
    *("", "na", "nan", "n/a", "none", "null", "<na>", "#n/a", "unknown", "missing", "?", "."),
    *("not available", "not applicable", "not reported", "indeterminate"),
)


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """How a subject's label follows from a row of the data set's table.

    Attributes:
        column: where it stands.
        positive: the values that count as 1, "*" for all that are not negative; empty for a number.
        negative: the values that count as 0; if empty, all others that are not missing.
        above: for a number: 1 if it is larger.
        event: for a time: the column that tells whether it ended in the event. Who was lost before `above` is
            left out, for nobody knows; without `above` it is survival, and nobody is.
        happened: the values of `event` that say so.
        classes: the values that are classes of their own, in order, where there are more than two; others are left
            out.
    """

    column: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    above: float | None = None
    event: str = ""
    happened: tuple[str, ...] = ("1",)
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_types(self)

    def value(self, row: Mapping[str, str]) -> float | None:
        """The label of a row, None to leave it out.

        0 or 1; of several classes the number of its own; else the number itself, which of a time with an event is
        negative where the subject was lost.

        Raises:
            KeyError: the row lacks a column.
        """
        text = row[self.column].strip()
        if text.casefold() in MISSING and not one_of(text, self.positive + self.negative + self.classes):
            return None
        if self.classes:
            return next((float(k) for k, name in enumerate(self.classes) if one_of(text, (name,))), None)
        if self.positive:
            return self._class(text)
        try:
            number = float(text)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        lost = bool(self.event) and not one_of(row[self.event], self.happened)
        if self.above is None:
            return (None if number <= 0 else -number if lost else number) if self.event else number
        if lost and number <= self.above:
            return None
        return float(number > self.above)

    def _class(self, text: str) -> float | None:
        if self.positive == (ANY,):
            return float(not one_of(text, self.negative))
        if one_of(text, self.positive):
            return 1.0
        return 0.0 if not self.negative or one_of(text, self.negative) else None


def _check_types(record: LabelRule | Task) -> None:
    """Text where text is wanted, and several values as a tuple: a bare word would be taken for its letters."""
    for item in fields(record):
        value, kind = getattr(record, item.name), str(item.type)
        if kind == "str" and not isinstance(value, str):
            raise ConfigError(f"{item.name} is {value!r}, which is no text", mend="put it in quotes")
        if kind.startswith("tuple[str") and not (
            isinstance(value, tuple) and all(isinstance(one, str) for one in value)
        ):
            raise ConfigError(
                f"{item.name} is {value!r}", mend=f"write {item.name}=('...',), a tuple of text"
            )


def one_of(text: str, values: tuple[str, ...]) -> bool:
    """Whether a cell holds one of some values; 1, 1.0 and "1 " are the same."""
    return _plain(text) in {_plain(value) for value in values}


def _plain(text: str) -> str:
    text = text.strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published score, never mixed with measured ones.

    Attributes:
        encoder: whose.
        metric, value: such as AUROC, 0.921.
        source: where it stands, and what is known of how it was selected.
    """

    encoder: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark task.

    Attributes:
        name: for the command line.
        title: what is asked, in words.
        scenario: what scores are averaged by; if empty, by the contrast (`scenario_of`).
        layout: how the data set lies on disk: a name of `mdae.tasks.layouts`.
        kind: classification of two or several classes, regression, survival (a time that ends in an event or is
            lost), or segmentation.
        label: how it follows from the data set's table; None for segmentation.
        contrasts: the data set's own names; each is evaluated, and all together if there are several.
        cohort: who is in it, in words.
        split: how subjects are divided, in words; `mdae evaluate --split TABLE` divides them otherwise.
        access, licence: where the data are to be had, and on what terms.
        note: what else a reader of a score should know.
        references: published scores.
    """

    name: str
    title: str
    scenario: str = ""
    layout: str
    kind: Kind = "classification"
    label: LabelRule | None = None
    contrasts: tuple[str, ...]
    cohort: str = "all subjects with the label and every contrast"
    split: str = "5 x 5-fold cross-validation by subject, stratified by the label"
    access: str = ""
    licence: str = ""
    note: str = ""
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        _check_types(self)
        if self.kind not in KINDS:
            raise ConfigError(f"a task of kind {self.kind!r}", mend=f"use one of {', '.join(KINDS)}")
        if not self.contrasts:
            raise ConfigError(f"task {self.name} has no contrasts", mend="name one or more")
        if (self.label is None) != (self.kind == "segmentation"):
            raise ConfigError(
                f"task {self.name} of kind {self.kind}", mend="a label it needs, or must not have"
            )
        self._check_label()

    def _check_label(self) -> None:
        """A rule that makes of a row what the kind of task asks for."""
        if self.label is None:
            return
        two = bool(self.label.positive) or self.label.above is not None
        if self.label.classes and (two or len(self.label.classes) < 3 or self.kind != "classification"):
            mend = "name three or more and nothing else; two are `positive` and `negative`"
            raise ConfigError(f"task {self.name} with the classes {self.label.classes}", mend=mend)
        if self.kind == "classification" and not (two or self.label.classes):
            mend = "give its label `positive` values, `above`, or `classes`"
            raise ConfigError(f"task {self.name} makes no two classes", mend=mend)
        if self.kind == "survival" and (two or not self.label.event):
            mend = "name the time as `column`, and the `event`"
            raise ConfigError(f"task {self.name} of survival without a time and an event alone", mend=mend)

    @property
    def num_classes(self) -> int:
        """Of a classification; 0 of others."""
        if self.label is None or self.kind != "classification":
            return 0
        return len(self.label.classes) or 2

    @property
    def metric(self) -> str:
        """The figure that encoders are compared by, as result files name it."""
        figures = {"regression": "mae", "survival": "concordance", "segmentation": "dice"}
        return figures.get(self.kind, "auroc")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, by the keys of result files."""
        about = asdict(self)
        return about | {CONTRASTS_KEY: about.pop("contrasts")}


FUSED = "all"  # the name of all contrasts together
SEEN = ("t1", "t1w", "t1n", "t2", "t2w")  # contrasts that OpenMind is rich in, as the paper counts them


def scenario_of(task: Task, contrast: str) -> str:
    """The paper's scenario that a score belongs to: in-domain (T1, T2), cross-modality (others), multi-modal."""
    if task.scenario:
        return task.scenario
    if contrast == FUSED:
        return "multi-modal"
    return "in-domain" if contrast.casefold() in SEEN else "cross-modality"


def task_from_dict(values: Mapping[str, Any]) -> Task:
    """A task of a user's own record; lists and single words both stand for several values.

    Raises:
        ConfigError: something is missing, unknown or of the wrong kind.
    """
    label = values.get("label")
    if isinstance(label, Mapping) and (astray := {*label} - _names(LabelRule) & _names(Task)):
        word = min(astray)
        raise ConfigError(
            f"not a task: {word!r} stands in its label", mend="write it beside `label`, at the margin"
        )
    try:
        own = dict(values)
        if CONTRASTS_KEY in own:
            own = {"contrasts": own.pop(CONTRASTS_KEY), **own}
        if (label := own.get("label")) is not None:
            own["label"] = LabelRule(**_typed(LabelRule, label))
        references = own.get("references") or ()
        own["references"] = tuple(Reference(**_typed(Reference, reference)) for reference in references)
        return Task(**_typed(Task, own))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not a task: {error}", mend="see `mdae tasks NAME` for one that is") from error


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _typed(kind: type, values: Any) -> dict[str, Any]:
    """Values for a record as its fields have them: text, tuples of text, or numbers."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} where the fields of a {kind.__name__} are wanted")
    if unknown := sorted(map(str, values.keys() - _names(kind))):
        raise TypeError(f"unknown {unknown[0]!r}; there are {', '.join(sorted(_names(kind)))}")
    types = {field.name: str(field.type) for field in fields(kind)}
    out: dict[str, Any] = {}
    for name, value in values.items():
        wanted = types.get(name, "")
        if wanted.startswith("tuple[str"):
            out[name] = tuple(map(_text, value)) if isinstance(value, list | tuple) else (_text(value),)
        elif wanted == "str":
            out[name] = "" if value is None else _text(value)
        elif wanted.startswith("float") and value is not None:
            out[name] = float(value)
        else:
            out[name] = value
    return out


def _text(value: Any) -> str:
    """A value as a table would hold it; YAML turns yes and no into something else, which no table holds."""
    if isinstance(value, bool):
        raise TypeError(f"{value}, which YAML makes of yes, no, on, off, true and false: write it in quotes")
    return str(value)
