"""`mdae probe`: a linear model on frozen features, honestly: no subject on both sides, selection never on test."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from mdae.data.tables import attach_labels, read_table
from mdae.errors import DataError
from mdae.evaluation.configs import ProbeConfig
from mdae.evaluation.probing.cross_validation import cross_validate, hold_out
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.statistics.intervals import (
    MIN_SUBJECTS,
    Estimate,
    auroc,
    average_precision,
    cross_validation_widening,
)
from mdae.files import atomic_write


@dataclass(frozen=True)
class ProbeResult:
    """How well one label is told from one contrast's features.

    Attributes:
        positive: the value that counts as positive.
        num_subjects, num_scans, num_positive: what was scored.
        selection: how the penalty was chosen and what was scored.
    """

    contrast: str
    label: str
    positive: str
    num_subjects: int
    num_scans: int
    num_positive: int
    auroc: Estimate
    average_precision: Estimate
    selection: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, with the prevalence."""
        return {**asdict(self), "prevalence": self.prevalence}

    @property
    def prevalence(self) -> float:
        """The share of positive scans: the average precision of chance."""
        return self.num_positive / self.num_scans


def probe(config: ProbeConfig) -> list[ProbeResult]:
    """One result a contrast of the features table.

    Raises:
        DataError: a table, column or label that does not do.
    """
    features = read_table(config.features)
    missing = [name for name in ("scan", "subject", "contrast") if name not in features.columns]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}", where=config.features, mend="make the table with mdae embed"
        )
    joined = attach_labels(features, read_table(config.labels), config.label, config.labels)
    results = [
        _probe_contrast(rows, str(contrast), config)
        for contrast, rows in joined.fillna({"contrast": ""}).groupby("contrast", sort=True)
    ]
    if config.out is not None:
        with atomic_write(config.out) as temporary:
            temporary.write_text(json.dumps([result.to_dict() for result in results], indent=2) + "\n")
    return results


def feature_matrix(table: pd.DataFrame) -> np.ndarray:
    """The columns f0000, f0001, ... of a features table, (N, F).

    Raises:
        DataError: there are none, or some are not finite.
    """
    columns = [name for name in table.columns if name[:1] == "f" and name[1:].isdigit()]
    if not columns:
        raise DataError("the features table has no columns f0000, ...", mend="make it with mdae embed")
    features = table[columns].to_numpy(dtype=np.float64)
    if spoilt := int((~np.isfinite(features)).any(axis=1).sum()):
        raise DataError(
            f"{spoilt} scans have features that are NaN or infinite",
            mend="make the table again with mdae embed",
        )
    return features


def _probe_contrast(rows: pd.DataFrame, contrast: str, config: ProbeConfig) -> ProbeResult:
    features, subjects = feature_matrix(rows), rows["subject"].astype(str).to_numpy()
    labels, positive = binary_labels(rows[config.label], config)
    if "split" in rows.columns:
        tested, scores = _given_split(features, labels, subjects, rows["split"].map(str), config)
        widening = 1.0
        selection = "penalty chosen on the train and val rows; test rows scored once"
    else:
        _require_subjects(labels, subjects, config)
        scores = cross_validate(
            LINEAR, features, labels, subjects, folds=config.folds, repeats=config.repeats, seed=config.seed
        ).scores
        tested = np.ones(len(labels), dtype=bool)
        widening = cross_validation_widening(config.folds)
        selection = (
            f"{config.repeats} x {config.folds}-fold cross-validation by subject; "
            "penalty chosen within each training part; "
            f"intervals over subjects, {widening:.2f} times as wide because models are refitted (Nadeau and Bengio)"
        )
    scored = (labels[tested], scores[tested], subjects[tested])
    return ProbeResult(
        contrast=contrast,
        label=config.label,
        positive=positive,
        num_subjects=len(np.unique(subjects[tested])),
        num_scans=int(tested.sum()),
        num_positive=int(labels[tested].sum()),
        auroc=auroc(*scored, widening=widening, seed=config.seed),
        average_precision=average_precision(*scored, widening=widening, seed=config.seed),
        selection=selection,
    )


def binary_labels(values: pd.Series, config: ProbeConfig) -> tuple[np.ndarray, str]:
    """Labels as 0 and 1, and the value that became 1: the later of the two in order.

    Raises:
        DataError: not exactly two values.
    """
    names = list(values.unique())
    names.sort(key=None if pd.api.types.is_numeric_dtype(values) else str)
    if len(names) != 2:
        shown = ", ".join(str(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(
            f"label {config.label!r} has {len(names)} values ({shown}); a probe needs two",
            where=config.labels,
            mend="choose another column, or make it two classes",
        )
    return (values == names[1]).to_numpy(dtype=np.int64), str(names[1])


def _require_subjects(labels: np.ndarray, subjects: np.ndarray, config: ProbeConfig) -> None:
    fewest = min(len(np.unique(subjects[labels == value])) for value in (0, 1))
    if fewest < max(MIN_SUBJECTS, config.folds):
        raise DataError(
            f"a class has {fewest} subjects; {config.folds} folds with intervals "
            f"need {max(MIN_SUBJECTS, config.folds)}",
            where=config.labels,
            mend="label more subjects",
        )


def _given_split(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, split: pd.Series, config: ProbeConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are test rows, and all rows' scores by a model of the others."""
    names = set(split)
    if not {"train", "test"} <= names <= {"train", "val", "test"}:
        raise DataError(
            f"column split holds {', '.join(sorted(names))}",
            where=config.labels,
            mend="use train, val and test",
        )
    sides = (
        pd.DataFrame({"subject": subjects, "split": split.to_numpy()}).groupby("subject")["split"].nunique()
    )
    if (sides > 1).any():
        raise DataError(
            f"subject {sides.index[sides > 1][0]} is in more than one split",
            where=config.labels,
            mend="split by subject",
        )
    train, val, test = (split.to_numpy() == name for name in ("train", "val", "test"))
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part.any() and len(np.unique(labels[part])) < 2:
            raise DataError(
                f"its {name} rows hold one class only",
                where=config.labels,
                mend="split so that each part holds both",
            )
    scored = hold_out(LINEAR, features, labels, subjects, split.to_numpy(), config.seed)
    return test, scored.scores


def results_table(results: list[ProbeResult]) -> Table:
    """The results as a table for people."""
    table = Table(title=f"linear probe of {results[0].label} (positive: {results[0].positive})")
    for column in ("contrast", "subjects", "scans", "positive", "prevalence", "AUROC [95 %]", "AP [95 %]"):
        table.add_column(column, justify="left" if column == "contrast" else "right")
    for r in results:
        counts = (r.num_subjects, r.num_scans, r.num_positive, f"{r.prevalence:.2f}")
        table.add_row(r.contrast or "-", *map(str, counts), str(r.auroc), str(r.average_precision))
    table.caption = results[0].selection
    return table
