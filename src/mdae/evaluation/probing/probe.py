"""`mdae probe`: a linear model on frozen features, honestly: no subject on both sides, selection never on test."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

from mdae.data.joining import join_labels
from mdae.data.tables import read_table
from mdae.errors import DataError
from mdae.evaluation.configs import ProbeConfig
from mdae.evaluation.probing.cross_validation import Scored, cross_validate, hold_out
from mdae.evaluation.probing.targets import Target, read_target
from mdae.evaluation.probing.views import View, feature_matrix, views_of
from mdae.evaluation.statistics.intervals import (
    MIN_SUBJECTS,
    Estimate,
    auroc,
    average_precision,
    cross_validation_widening,
)
from mdae.evaluation.statistics.multiclass import confusion, multiclass_scores
from mdae.evaluation.statistics.scores import regression_scores
from mdae.files import atomic_write
from mdae.text import counted

__all__ = ["ProbeResult", "feature_matrix", "probe", "results_table"]

SHOWN = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "balanced_accuracy": "balanced accuracy",
    "mae": "MAE",
    "r2": "R2",
    "pearson_r": "r",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeResult:
    """How well one label is told from one contrast's features, or from those of all contrasts.

    Attributes:
        contrast: its name, or `all`.
        classes: the label's, in order, of which the later of two is the positive; none of a number.
        num_subjects, num_scans: what was scored.
        counts: number of scored scans of each class.
        num_changing: number of scored subjects with scans of more than one class.
        scores: figures with intervals, by name; empty if refused.
        confusion: of several classes, (K, K): how many scans of each (rows) are taken for each.
        selection: how the penalty was chosen and what was scored.
        notes: what was left out or taken loosely, a line each.
        refused: why there are no figures; "" if there are.
    """

    contrast: str
    label: str
    classes: tuple[str, ...]
    num_subjects: int = 0
    num_scans: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    num_changing: int = 0
    scores: dict[str, Estimate] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    selection: str = ""
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def positive(self) -> str:
        """The class that counts as positive; "" unless there are two."""
        return self.classes[1] if len(self.classes) == 2 else ""

    @property
    def num_positive(self) -> int:
        """Number of scored scans of the positive class."""
        return self.counts.get(self.positive, 0)

    @property
    def prevalence(self) -> float:
        """The share of positive scans: the average precision of chance."""
        return self.num_positive / max(1, self.num_scans)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy: the figures by name, of two classes with the positive one and its prevalence."""
        about = asdict(self)
        about |= about.pop("scores")
        if self.positive:
            about |= {name: getattr(self, name) for name in ("positive", "num_positive", "prevalence")}
        return about


def probe(config: ProbeConfig) -> list[ProbeResult]:
    """One result a contrast of the features table, and one of all together if there are several.

    Raises:
        DataError: a table, column or label that does not do, for every contrast.
    """
    features = read_table(config.features)
    missing = [name for name in ("scan", "subject", "contrast") if name not in features.columns]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}", where=config.features, mend="make the table with mdae embed"
        )
    joined = join_labels(
        features,
        read_table(config.labels),
        config.label,
        config.labels,
        missing=config.missing,
        words=config.kind == "classification",
    )
    for note in joined.notes:
        logger.warning("%s: %s", config.labels, note)
    target = read_target(
        joined.rows[config.label], config.label, config.labels, kind=config.kind, positive=config.positive
    )
    views, left = views_of(joined.rows, target, config.labels)
    results = [_or_refused(view, target, config) for view in views]
    results = [replace(result, notes=(*joined.notes, *left)) for result in results]
    if config.out is not None:
        with atomic_write(config.out) as temporary:
            temporary.write_text(json.dumps([result.to_dict() for result in results], indent=2) + "\n")
    return results


def _or_refused(view: View, target: Target, config: ProbeConfig) -> ProbeResult:
    """A view's result, or why it has none where other views may have one."""
    try:
        return _probe_view(view, target, config)
    except DataError as error:
        if view.alone:
            raise
        return ProbeResult(view.contrast, config.label, target.classes, refused=error.what)


def _probe_view(view: View, target: Target, config: ProbeConfig) -> ProbeResult:
    if view.split is not None:
        tested = view.split == "test"
        scored = _given_split(view, target, config)
        widening = 1.0
        selection = "penalty chosen on the train and val rows; test rows scored once"
    else:
        _require_subjects(view, target, config)
        options: dict[str, Any] = {"folds": config.folds, "repeats": config.repeats, "seed": config.seed}
        scored = cross_validate(target.protocol, view.features, view.labels, view.subjects, **options)
        tested = np.ones(len(view.labels), dtype=bool)
        widening = cross_validation_widening(config.folds)
        selection = (
            f"{config.repeats} x {config.folds}-fold cross-validation by subject; "
            "penalty chosen within each training part; "
            f"intervals over subjects, {widening:.2f} times as wide because models are refitted (Nadeau and Bengio)"
        )
    labels, subjects = view.labels[tested], view.subjects[tested]
    changing = view.changing(tested) if target.classes else 0
    result = ProbeResult(
        contrast=view.contrast,
        label=config.label,
        classes=target.classes,
        num_subjects=len(np.unique(subjects)),
        num_scans=int(tested.sum()),
        counts={name: int((labels == place).sum()) for place, name in enumerate(target.classes)},
        num_changing=changing,
        selection=selection,
    )
    return replace(result, **_figures(target, view, scored, tested, widening, config))


def _figures(
    target: Target, view: View, scored: Scored, tested: np.ndarray, widening: float, config: ProbeConfig
) -> dict[str, Any]:
    """The fields of a result that are figures."""
    labels, subjects = view.labels[tested], view.subjects[tested]
    scores = scored.scores[tested]
    options: dict[str, Any] = {"widening": widening, "seed": config.seed}
    if not target.classes:
        ranked = None if scored.ranked is None else scored.ranked[tested]
        return {"scores": regression_scores(labels, scores, subjects, ranked=ranked, **options)}
    if len(target.classes) == 2:
        return {
            "scores": {
                "auroc": auroc(labels, scores, subjects, **options),
                "average_precision": average_precision(labels, scores, subjects, **options),
            }
        }
    figures = multiclass_scores(labels, scores, scored.probabilities[tested], subjects, **options)
    return {"scores": figures, "confusion": confusion(labels, scores)}


def _require_subjects(view: View, target: Target, config: ProbeConfig) -> None:
    wanted = max(MIN_SUBJECTS, config.folds)
    fewest, name = view.fewest(target)
    if fewest < wanted:
        whose = f"class {name}" if target.classes else "the label"
        raise DataError(
            f"{whose} has {counted(fewest, 'subject')}; {config.folds} folds with intervals need {wanted}",
            where=config.labels,
            mend="label more subjects",
        )


def _given_split(view: View, target: Target, config: ProbeConfig) -> Scored:
    """All rows' scores by a model of the train and val rows."""
    assert view.split is not None
    for part in ("train", "val", "test"):
        rows = view.split == part
        present = np.unique(view.labels[rows])
        if rows.any() and target.classes and len(present) < len(target.classes):
            absent = next(name for place, name in enumerate(target.classes) if place not in present)
            raise DataError(
                f"its {part} rows hold nobody of class {absent}",
                where=config.labels,
                mend="split so that each part holds every class",
            )
    return hold_out(target.protocol, view.features, view.labels, view.subjects, view.split, config.seed)


def results_table(results: list[ProbeResult]) -> Table:
    """The results as a table for people."""
    first = next((result for result in results if not result.refused), results[0])
    told = f" (positive: {first.positive})" if first.positive else ""
    table = Table(title=f"linear probe of {first.label}{told}")
    names = [name for name in first.scores if name != "brier"]
    counted = ["positive", "prevalence"] if first.positive else []
    for column in ("contrast", "subjects", "scans", *counted, *(f"{SHOWN[name]} [95 %]" for name in names)):
        table.add_column(column, justify="left" if column == "contrast" else "right")
    for result in results:
        if result.refused:
            table.add_row(result.contrast or "-", result.refused)
            continue
        counts = [str(result.num_subjects), str(result.num_scans)]
        if first.positive:
            counts += [str(result.num_positive), f"{result.prevalence:.2f}"]
        table.add_row(result.contrast or "-", *counts, *(str(result.scores[name]) for name in names))
    table.caption = "\n".join(_remarks(results, first))
    return table


def _remarks(results: list[ProbeResult], first: ProbeResult) -> list[str]:
    """What a reader of the figures has to know."""
    remarks = [first.selection]
    if first.num_changing:
        remarks.append(
            f"{first.num_changing} subjects change between classes: each scan counts by its own label, all of a "
            "subject's are on one side, and the intervals draw the subject among the later class"
        )
    for result in results:
        if result.confusion:
            rows = zip(result.classes, result.confusion, strict=True)
            shown = "; ".join(f"{name}: {' '.join(map(str, row))}" for name, row in rows)
            remarks.append(
                f"{result.contrast or '-'}: scans of each class taken for {', '.join(result.classes)}: {shown}"
            )
    return remarks
