"""A fitted model is a folder: `fitted.safetensors` and `fitted.json`; nothing in it is run, wherever it comes from.

The record says what it was fitted on (subjects and scans as salted hashes), which encoder it needs, and how well it
does on new subjects. The encoder itself lies in the folder `encoder` if it was asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.data.stack import JOINT, lacks
from mdae.errors import DataError
from mdae.evaluation.features.extractors import Extractor
from mdae.evaluation.features.session import PreparedSession, shown
from mdae.inference.encoders import open_encoder
from mdae.inference.heads import HEADS, Head, Row
from mdae.inference.novelty import Novelty
from mdae.inference.record import misfit, write_fitted
from mdae.networks.saved import overlap
from mdae.notices import hearing

SEEN = "the model was fitted on this very scan"
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
    def channels(self) -> tuple[str, ...]:
        """The contrasts that the encoder sees at once, of which a subject may lack some; none if one by one."""
        return channels_of(self.about)

    @property
    def columns(self) -> list[str] | None:
        """The columns of a table of features that it was fitted on; None if scans are embedded."""
        columns = self.about["encoder"].get("columns")
        return None if columns is None else [str(name) for name in columns]

    def save(self, folder: Path) -> None:
        """Write the folder."""
        tensors = {**self.head.tensors(), **self.novelty.tensors()}
        write_fitted(folder, self.about, {k: v.astype(np.float64) for k, v in tensors.items()})

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

        An encoder that sees them at once takes those that there are of its channels.

        Raises:
            ScanError: a file that cannot be read or is unfit.
            DataError: not the contrasts that were fitted on, or a model that was fitted on a table.
            ModelError: the encoder is not where it was, or not the one that was fitted on.
        """
        entries = entries_of(scan, self.contrasts, some=bool(self.channels))
        features, notes = self.features(*self.prepare(entries))
        return self.predict_features(features[None], [notes])[0]

    def prepare(self, entries: Mapping[str, ScanEntry]) -> tuple[list[PreparedScan], list[str]]:
        """A subject's scans by contrast, prepared, and what was warned of; may run in threads."""
        return prepared_together(
            shown(entries, self.contrasts, self.channels), self.extractor.prepare, self.channels
        )

    def features(
        self, prepared: Sequence[PreparedScan], notes: Sequence[str]
    ) -> tuple[np.ndarray, list[str]]:
        """The features (F,) of prepared scans side by side, and what is to be said of them."""
        said = list(notes)
        if is_known(prepared, self.about):
            said.append(SEEN)
        return np.concatenate([self.extractor.features(scan) for scan in prepared]), said

    @functools.cached_property
    def extractor(self) -> Extractor:
        """The encoder, which must be the one that was fitted on."""
        return open_encoder(self.about["encoder"], self.folder, self.encoder, self.device)


def channels_of(about: Row) -> tuple[str, ...]:
    """The channels of the encoder of a fitted model's record."""
    return tuple(map(str, about["encoder"].get("channels", ())))


def prepared_together(
    entries: Sequence[ScanEntry], prepare: Callable[[ScanEntry], PreparedScan], channels: Sequence[str]
) -> tuple[list[PreparedScan], list[str]]:
    """Scans, prepared, and what was warned of, with what a session lacks."""
    with hearing() as notes:
        prepared = [prepare(entry) for entry in entries]
    sessions = [own.records for own in prepared if isinstance(own, PreparedSession)]
    return prepared, [*notes, *(note for records in sessions for note in lacks(channels, records))]


def is_known(prepared: Sequence[PreparedScan], about: Row) -> bool:
    """Whether a fitted model was fitted on any of these scans."""
    contents = [own for scan in prepared for own in scan.record.content.split(JOINT)]
    return bool(overlap(about["fitted_on"]["scans"], contents))


def entries_of(scan: Scans, contrasts: tuple[str, ...], *, some: bool) -> dict[str, ScanEntry]:
    """The scans of a subject by contrast; raises `DataError` for others than a model wants, all of them or some."""
    given = scan if isinstance(scan, Mapping) else {} if some else {contrasts[0]: scan}
    if not given or not set(given) <= set(contrasts) or (len(given) < len(contrasts) and not some):
        raise DataError(
            f"scans of {', '.join(contrasts)} of a subject are wanted, {'any of them' if some else 'all'} together",
            mend="give predict() a mapping from contrast to scan",
        )
    return {
        name: one if isinstance(one, ScanEntry) else ScanEntry("", "", "", name, Path(one))
        for name, one in given.items()
    }


def read_features_model(
    folder: Path, about: Row, tensors: Mapping[str, np.ndarray], encoder: str, device: str
) -> FittedModel:
    """A fitted model of features from its record and arrays; raises `ModelError` if they do not fit each other."""
    try:
        head = HEADS[about["kind"]].read(tensors, about["head"])
        novelty = Novelty.from_tensors(tensors)
        model = FittedModel(head, novelty, about, folder, encoder, device)
        assert model.expected is not None and model.contrasts and isinstance(about["encoder"], dict)
        assert about["fitted_on"]["scans"]["hashes"] is not None
        model.predict_features(np.zeros((1, novelty.cloud.mean.size)))  # every shape fits every other
        assert np.isfinite(model.head.line.weights).all()
    except (KeyError, TypeError, ValueError, IndexError, AssertionError, AttributeError, DataError) as error:
        raise misfit(folder, error) from error
    return model
