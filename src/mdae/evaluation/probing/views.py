"""What a probe sees at once: the scans of one contrast, or all contrasts of a subject's session side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mdae.errors import DataError
from mdae.evaluation.probing.targets import Target
from mdae.tasks.record import FUSED
from mdae.text import counted


@dataclass(frozen=True)
class View:
    """Rows of features with labels.

    Attributes:
        contrast: their name, or `all`.
        features: (N, F).
        labels: (N,), as a `Target` has them.
        subjects: (N,).
        split: (N,) of train, val and test; None for cross-validation.
        alone: whether it is the only one.
    """

    contrast: str
    features: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    split: np.ndarray | None
    alone: bool = False

    def fewest(self, target: Target) -> tuple[int, str]:
        """Number of subjects, of the smallest class if there are classes, and its name."""
        if not target.classes:
            return len(np.unique(self.subjects)), ""
        sizes = [len(np.unique(self.subjects[self.labels == k])) for k in range(len(target.classes))]
        smallest = int(np.argmin(sizes))
        return sizes[smallest], target.classes[smallest]

    def changing(self, rows: np.ndarray) -> int:
        """Number of subjects with more than one label among some rows."""
        table = pd.DataFrame({"subject": self.subjects[rows], "label": self.labels[rows]})
        return int((table.groupby("subject")["label"].nunique() > 1).sum())


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
            f"{counted(int(spoilt), 'scan has', 'scans have')} features that are NaN or infinite",
            mend="make the table again with mdae embed",
        )
    return features


def views_of(rows: pd.DataFrame, target: Target, where: Path) -> tuple[list[View], list[str]]:
    """A view a contrast, and of several one of all, with what is left out of that.

    Args:
        rows: of features, with subject, contrast and, if there are, session and split.
        target: the labels of the rows.
        where: the file of the labels, for what is said.

    Raises:
        DataError: features that are none, or a split that cannot be used.
    """
    features, subjects = feature_matrix(rows), rows["subject"].astype(str).to_numpy()
    contrasts = rows["contrast"].fillna("").astype(str).to_numpy()
    split = given_split(rows, subjects, where) if "split" in rows.columns else None
    names = sorted(set(contrasts.tolist()))
    views = []
    for name in names:
        own = contrasts == name
        part = None if split is None else split[own]
        views.append(
            View(name, features[own], target.values[own], subjects[own], part, alone=len(names) == 1)
        )
    if len(names) == 1:
        return views, []
    fused, left = _side_by_side(rows, features, contrasts, target, split)
    return [*views, *fused], left


def _side_by_side(
    rows: pd.DataFrame, features: np.ndarray, contrasts: np.ndarray, target: Target, split: np.ndarray | None
) -> tuple[list[View], list[str]]:
    """All contrasts of a subject's session as one row of features, the mean of each contrast's scans; notes."""
    sessions = (
        rows["session"].fillna("").astype(str) if "session" in rows.columns else pd.Series("", rows.index)
    )
    table = pd.DataFrame({"subject": rows["subject"].astype(str), "session": sessions})
    table = table.reset_index(drop=True).assign(contrast=contrasts, label=target.values)
    names = sorted(set(contrasts.tolist()))
    taken, labels, firsts = [], [], []
    lacking = contrary = 0
    for _, own in table.groupby(["subject", "session"], sort=True):
        places = [own.index[own["contrast"] == name].to_numpy() for name in names]
        if not all(len(place) for place in places):
            lacking += 1
        elif own["label"].nunique() > 1:
            contrary += 1
        else:
            taken.append(np.concatenate([features[place].mean(axis=0) for place in places]))
            labels.append(own["label"].iloc[0])
            firsts.append(int(own.index[0]))
    notes = []
    if lacking:
        notes.append(f"{FUSED}: {lacking} sessions without every contrast are left out")
    if contrary:
        notes.append(f"{FUSED}: {contrary} sessions whose scans have several labels are left out")
    if not taken:
        return [], notes
    part = None if split is None else split[firsts]
    subjects = table["subject"].to_numpy()[firsts]
    return [View(FUSED, np.stack(taken), np.array(labels, target.values.dtype), subjects, part)], notes


def given_split(rows: pd.DataFrame, subjects: np.ndarray, where: Path) -> np.ndarray:
    """The part of each row, by the labels' column `split`.

    Raises:
        DataError: other words than train, val and test, or a subject in two parts.
    """
    split = rows["split"].map(lambda part: str(part).strip()).to_numpy()
    names = {name or "blank" for name in split.tolist()}
    if not {"train", "test"} <= names <= {"train", "val", "test"}:
        raise DataError(
            f"column split holds {', '.join(sorted(names))}", where=where, mend="use train, val and test"
        )
    sides = pd.DataFrame({"subject": subjects, "split": split}).groupby("subject")["split"].nunique()
    if (sides > 1).any():
        raise DataError(
            f"subject {sides.index[sides > 1][0]} is in more than one split",
            where=where,
            mend="split by subject",
        )
    return np.asarray(split)
