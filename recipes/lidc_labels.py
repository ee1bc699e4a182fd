"""What is told of nodules by their features: the questions of `recipes.lidc`, asked of every encoder and baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from mdae.data.catalogue import ScanEntry
from mdae.errors import DataError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.features.cache import FeatureCache
from mdae.evaluation.features.extractors import open_extractor
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.probing.cross_validation import cross_validate, hold_out
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.statistics.intervals import cross_validation_widening
from recipes.areas import Rows

FOLDS, REPEATS = 5, 5
KEY = ["question", "encoder", "seed"]
TASK = """name: {name}
title: {title}
layout: table
contrasts: [CT]
label: {{column: label, positive: '1', negative: '0'}}
"""


@dataclass(frozen=True)
class Question:
    """A label of nodules.

    Attributes:
        label: its column; above this counts as 1.
        above: 0, or for marks of 1 to 5 another.
        diameter_mm: of the nodules that are asked about.
        with_diameter: whether the model is given that beside the features.
        folds: cross-validated over all patients, instead of train, val and test.
    """

    label: str
    above: int = 0
    diameter_mm: tuple[float, float] = (0.0, math.inf)
    with_diameter: bool = False
    folds: bool = False

    def labels(self, nodules: pd.DataFrame) -> np.ndarray:
        """(N,) of 0 and 1."""
        return np.asarray((nodules[self.label] > self.above).astype(float))

    def about(self, nodules: pd.DataFrame) -> pd.DataFrame:
        """Those that are asked about."""
        return nodules[nodules.diameter_mm.between(*self.diameter_mm)]


QUESTIONS = {
    "stratum": Question("malignant", diameter_mm=(8.0, 12.0)),
    "stratum-folds": Question("malignant", diameter_mm=(8.0, 12.0), folds=True),
    "malignant": Question("malignant"),
    "malignant-beside": Question("malignant", with_diameter=True),
    "solid": Question("solid"),
    "spiculated": Question("spiculation", above=1),
}
CNN = "cnn"
BY_CNN = ("stratum", "solid")  # what a CNN from scratch is trained on: what size does not answer


def features_of(spec: str, scans: list[ScanEntry], cache: Path) -> np.ndarray:
    """Features (N, F) of the middle window of crops, means and maxima; each is computed once."""
    known = FeatureCache(cache, open_extractor(spec, window="centre", pool="both", device="cpu"))
    if failed := known.fill(scans, workers=1):
        path, error = next(iter(failed.items()))
        raise DataError(f"{len(failed)} crops have no features: {error.what}", where=path)
    return np.stack([np.asarray(known.read(scan), dtype=np.float64) for scan in scans])


def sizes_of(nodules: pd.DataFrame, scans: list[ScanEntry]) -> dict[str, np.ndarray]:
    """What is told without a look inside: the logarithms (N, 1) of the diameter and of the crop's volume."""
    volumes = []
    for scan in scans:
        header = nib.load(scan.path).header
        volumes.append(float(np.prod(np.multiply(header.get_zooms()[:3], header.get_data_shape()[:3]))))
    known = {"diameter": nodules.diameter_mm.to_numpy(), "crop volume": np.array(volumes)}
    return {name: np.log(values)[:, None] for name, values in known.items()}


def asked(question: Question, nodules: pd.DataFrame, features: np.ndarray) -> pd.Series:
    """The scores of the nodules that count, by scan: of test patients, or of all that are cross-validated.

    Args:
        question: what is asked.
        nodules: N of them.
        features: (N, F).
    """
    own = question.about(nodules)
    x = features[nodules.index.isin(own.index)]
    if question.with_diameter:  # as many columns as features, so that a penalty on those leaves it free
        x = np.hstack([x, np.tile(np.log(own.diameter_mm.to_numpy())[:, None], x.shape[1])])
    y, people = question.labels(own), own.subject.to_numpy()
    if question.folds:
        found = cross_validate(LINEAR, x, y, people, folds=FOLDS, repeats=REPEATS)
        return pd.Series(found.scores, own.index)
    found = hold_out(LINEAR, x, y, people, own.split.to_numpy(), 0)
    return pd.Series(found.scores, own.index)[(own.split == "test").to_numpy()]


def asked_of_cnn(
    name: str, nodules: pd.DataFrame, scans: dict[str, ScanEntry], spec: str, out: Path
) -> pd.Series:
    """The same by a small CNN that learns from these labels alone, by `mdae evaluate --protocol finetune`."""
    question = QUESTIONS[name]
    own = question.about(nodules)
    paths = [str(scans[scan].path.resolve()) for scan in own.index]
    folder = out / "cnn"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(TASK.format(name=f"nodules-{name}", title=question.label))
    table = pd.DataFrame({"path": paths, "subject": own.index, "contrast": "CT"})
    table.assign(label=question.labels(own).astype(int)).to_csv(folder / f"{name}.csv", index=False)
    own[["scan", "subject"]].to_csv(folder / f"{name}-patients.csv", index=False)
    own[["subject", "split"]].drop_duplicates().to_csv(folder / f"{name}-split.csv", index=False)
    trial = EvaluateConfig(
        encoder=spec,
        task=(str(folder / f"{name}.yaml"),),
        data=folder / f"{name}.csv",
        subjects=folder / f"{name}-patients.csv",
        split=folder / f"{name}-split.csv",
        repeats=1,
        workers=1,
        out=folder / "results",
        cache=out / "cache",
        finetune=FinetuneOptions(epochs=30, patience=8),
    )
    (found,) = evaluate(trial)
    (result,) = found.results
    return pd.Series(result.predictions, result.subjects)


def summary(scores: pd.DataFrame, nodules: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row an encoder and question: its AUROC, and what it is above the diameter and the untrained network.

    Args:
        scores: of single nodules, in columns by scan behind `KEY`.
        nodules: all of them, by scan.
    """
    for name, rows in scores.groupby("question", sort=False):
        question = QUESTIONS[str(name)]
        kept = rows.drop(columns=KEY).dropna(axis=1, how="all")
        own = nodules.loc[kept.columns]
        widening = cross_validation_widening(FOLDS) if question.folds else 1.0
        known = Rows(question.labels(own), own.subject.to_numpy(), widening)
        of = {str(encoder): kept[rows.encoder == encoder].to_numpy() for encoder in rows.encoder.unique()}
        for encoder, values in of.items():
            area = known.area(values)
            row: dict[str, object] = {"question": name, "encoder": encoder, "seeds": len(values)}
            row |= {"nodules": len(own), "patients": own.subject.nunique(), **area.to_dict()}
            for other in ("diameter", "untrained"):
                if other in of and encoder != other:
                    gain, p = known.difference(values, of[other])
                    row |= {f"less_{other}": gain.value, f"less_{other}_low": gain.low}
                    row |= {f"less_{other}_high": gain.high, f"less_{other}_p": p}
            yield row
