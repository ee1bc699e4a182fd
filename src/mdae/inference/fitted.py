"""A fitted model is a folder: `fitted.safetensors` and `fitted.json`; nothing in it is run, wherever it comes from.

The record says what it was fitted on (subjects and scans as salted hashes), which encoder it needs, and how well it
does on new subjects. The encoder itself lies in the folder `encoder` if it was asked for.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.errors import DataError, ModelError
from mdae.evaluation.features.extractors import Extractor, is_own, open_extractor
from mdae.files import atomic_write, write_json
from mdae.inference.heads import HEADS, Head, Row
from mdae.inference.hearing import hearing
from mdae.inference.novelty import Novelty
from mdae.interop.strangers import HUB_NAME, STRANGERS
from mdae.networks.saved import CONFIG, WEIGHTS, overlap
from mdae.version import __version__

RECORD, TENSORS, BUNDLED = "fitted.json", "fitted.safetensors", "encoder"
FORMAT = 1
MEND = "give a folder that mdae fit wrote"
Scans = str | Path | ScanEntry | Mapping[str, str | Path | ScanEntry]


@dataclass(frozen=True)
class Prediction:
    """What a fitted model says of a scan.

    Attributes:
        said: the columns that its kind has: class and probability_NAME of each; prediction, low and high; or risk.
        distance: from the scans that were fitted on, in units of their own median distance from each other's cloud.
        as_far: the share of them that lie at least as far.
        warnings: why it may not hold here.
    """

    said: Row
    distance: float
    as_far: float
    warnings: tuple[str, ...] = ()

    def row(self) -> Row:
        """All of it as a row of a table."""
        noted = "; ".join(self.warnings)
        return {**self.said, "distance": self.distance, "as_far": self.as_far, "warnings": noted}

    def __getitem__(self, column: str) -> Any:
        return self.said[column]


@dataclass(frozen=True)
class FittedModel:
    """What was fitted on the features of an encoder.

    Attributes:
        head: what turns features into what is said.
        novelty: how far features lie from those that were fitted on.
        about: the record, JSON-able: kind, label, expected, encoder, contrasts, fitted_on and more.
        folder: where it lies, if it was read; paths of the record begin there.
        encoder: another place of the encoder than the record's; "" for that one.
        device: where the encoder computes.
    """

    head: Head
    novelty: Novelty
    about: Row
    folder: Path | None = None
    encoder: str = ""
    device: str = "auto"

    @property
    def kind(self) -> str:
        """classification, regression or survival."""
        return str(self.about["kind"])

    @property
    def expected(self) -> dict[str, dict[str, float]]:
        """Each figure's value, low and high: how well it does on new subjects, with its 95 % interval."""
        return dict(self.about["expected"]["scores"])

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Whose features stand side by side."""
        return tuple(self.about["contrasts"])

    @property
    def columns(self) -> list[str] | None:
        """The columns of a table of features that it was fitted on; None if scans are embedded."""
        columns = self.about["encoder"].get("columns")
        return None if columns is None else [str(name) for name in columns]

    def save(self, folder: Path) -> None:
        """Write the folder; arrays first, so that one with a record is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {**self.head.tensors(), **self.novelty.tensors()}
        with atomic_write(folder / TENSORS) as temporary:
            safetensors.numpy.save_file(
                {k: np.ascontiguousarray(v, dtype=np.float64) for k, v in tensors.items()}, temporary
            )
        write_json(folder / RECORD, {"format": FORMAT, "mdae": __version__, **self.about})

    def predict_features(self, features: np.ndarray, notes: Sequence[Sequence[str]] = ()) -> list[Prediction]:
        """What is said of rows of features (N, F).

        Args:
            features: as it was fitted on.
            notes: warnings of each row that are known already.

        Raises:
            DataError: features of another number, or not finite.
        """
        wanted = self.novelty.cloud.mean.size
        if features.ndim != 2 or features.shape[1] != wanted or not np.isfinite(features).all():
            what = f"features of shape {features.shape}, some perhaps not finite; rows of {wanted} numbers are wanted"
            raise DataError(what, mend="embed with the encoder that the model was fitted on")
        x = features.astype(np.float64)
        distances, shares = self.novelty.distance(x), self.novelty.share_as_far(x)
        noted = [list(own) for own in notes] or [[] for _ in x]
        furthest = 1 / (len(self.novelty.known) + 1)
        for own, share in zip(noted, shares, strict=True):
            if share <= furthest:
                own.append("further from the scans that were fitted on than any of these from the others")
        said = zip(self.head.rows(x), distances.tolist(), shares.tolist(), noted, strict=True)
        return [Prediction(row, far, share, tuple(own)) for row, far, share, own in said]

    def predict(self, scan: Scans) -> Prediction:
        """What is said of a raw scan; of several contrasts, of a mapping from contrasts to scans.

        Raises:
            ScanError: a file that cannot be read or is unfit.
            DataError: not the contrasts that were fitted on, or a model that was fitted on a table.
            ModelError: the encoder is not where it was, or not the one that was fitted on.
        """
        features, notes = self.features(*self.prepare(self._entries(scan)))
        return self.predict_features(features[None], [notes])[0]

    def _entries(self, scan: Scans) -> dict[str, ScanEntry]:
        given = scan if isinstance(scan, Mapping) else {self.contrasts[0]: scan}
        if set(given) != set(self.contrasts) or (len(self.contrasts) > 1) > isinstance(scan, Mapping):
            raise DataError(
                f"scans of {', '.join(self.contrasts)} of a subject are wanted, all together",
                mend="give predict() a mapping from contrast to scan",
            )
        return {
            name: one if isinstance(one, ScanEntry) else ScanEntry("", "", "", name, Path(one))
            for name, one in given.items()
        }

    def prepare(self, entries: Mapping[str, ScanEntry]) -> tuple[list[PreparedScan], list[str]]:
        """A subject's scans by contrast, prepared, and what was warned of; may run in threads."""
        with hearing() as notes:
            prepared = [self.extractor.prepare(entries[name]) for name in self.contrasts]
        return prepared, notes

    def features(
        self, prepared: Sequence[PreparedScan], notes: Sequence[str]
    ) -> tuple[np.ndarray, list[str]]:
        """The features (F,) of prepared scans side by side, and what is to be said of them."""
        said = list(notes)
        if overlap(self.about["fitted_on"]["scans"], [scan.record.content for scan in prepared]):
            said.append("the model was fitted on this very scan")
        return np.concatenate([self.extractor.features(scan) for scan in prepared]), said

    @functools.cached_property
    def extractor(self) -> Extractor:
        """The encoder, which must be the one that was fitted on."""
        return open_encoder(self.about["encoder"], self.folder, self.encoder, self.device)


def load_fitted(folder: str | Path, *, encoder: str = "", device: str = "auto") -> FittedModel:
    """Read a fitted model; strict, and nothing in it is run.

    Args:
        folder: that `mdae fit` wrote.
        encoder: where its encoder is now, if it is not where it was.
        device: where to compute.

    Raises:
        ModelError: no such folder, a file missing or damaged, or arrays that do not fit each other.
    """
    folder = Path(folder)
    about, tensors = read_record(folder), _read_tensors(folder / TENSORS)
    try:
        head = HEADS[about["kind"]].read(tensors, about["head"])
        novelty = Novelty.from_tensors(tensors)
        model = FittedModel(head, novelty, about, folder, encoder, device)
        assert model.expected is not None and model.contrasts and isinstance(about["encoder"], dict)
        assert about["fitted_on"]["scans"]["hashes"] is not None
        model.predict_features(np.zeros((1, novelty.cloud.mean.size)))  # every shape fits every other
        assert np.isfinite(model.head.line.weights).all()
    except (KeyError, TypeError, ValueError, IndexError, AssertionError, AttributeError, DataError) as error:
        raise ModelError(
            f"its record and arrays do not describe a fitted model of this version ({type(error).__name__}: {error})",
            where=folder,
            mend=MEND,
        ) from error
    return model


def read_record(folder: Path) -> Row:
    """What `fitted.json` says; raises `ModelError`."""
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(f"no {RECORD} there", where=folder, mend=MEND)
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"not readable as JSON ({error})", where=path, mend=MEND) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelError(f"not the record of a fitted model of format {FORMAT}", where=path, mend=MEND)
    return about


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(safetensors.numpy.load_file(path))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"damaged or missing arrays ({error})", where=path, mend="copy the folder again"
        ) from error


# -- the encoder ----------------------------------------------------------------------------------------------------


def encoder_record(spec: str, extractor: Extractor, out: Path, *, bundled: bool) -> Row:
    """What is kept of the encoder: where it is, as seen from the model's folder, and what tells it from others."""
    place = os.path.relpath(spec, out) if Path(spec).exists() else spec
    place = BUNDLED if bundled else place
    settings = {"window": getattr(extractor, "window", "slide"), "pool": getattr(extractor, "pool", "mean")}
    return {"place": place, "name": extractor.name, "identity": extractor.identity, **settings}


def bundle_encoder(spec: str, out: Path) -> None:
    """Copy a model folder of ours into the fitted model's; raises `ModelError` for others' weights."""
    source = Path(spec)
    if not (is_own(spec) and (source / WEIGHTS).is_file()):
        raise ModelError(
            "only model folders of mdae are bundled: others' weights are for their authors to pass on",
            where=spec,
            mend="leave --bundle out",
        )
    for name in (WEIGHTS, CONFIG):
        with atomic_write(out / BUNDLED / name) as temporary:
            shutil.copyfile(source / name, temporary)


def open_encoder(about: Row, folder: Path | None, given: str, device: str) -> Extractor:
    """The encoder of a fitted model's record, or the one given; it must be that which was fitted on.

    Raises:
        ModelError: it is not to be had, or another one.
    """
    if "columns" in about:
        raise ModelError(
            "fitted on a table of features, not on scans", mend="give it a table of the same columns"
        )
    spec = given or _place(about, folder)
    extractor = open_extractor(spec, window=about["window"], pool=about["pool"], device=device)
    if extractor.identity != about["identity"]:
        raise ModelError(
            f"not the encoder that was fitted on, which is {about['name']}",
            where=spec,
            mend="give --encoder that one",
        )
    return extractor


def _place(about: Row, folder: Path | None) -> str:
    """Where the record says that the encoder is; only what is read as weights, never a file of code."""
    place = str(about["place"])
    local = (folder or Path()) / place
    if (local / CONFIG).is_file():
        return str(local)
    kind = place.partition(":")[0]
    if kind in STRANGERS or kind in ("untrained", "histogram") or HUB_NAME.fullmatch(place):
        return place
    raise ModelError(
        f"its encoder {about['name']} is not at {place}", where=folder, mend="say where it is with --encoder"
    )
