"""A fitted model of masks: scans in, segmentations on the scans' own voxels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdae.data.catalogue import ScanEntry
from mdae.data.io import write_nifti
from mdae.data.preprocess import PreparedScan
from mdae.errors import ModelError
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.session import PreparedSession, shown
from mdae.evaluation.segment.segmenter import FittedSegmenter
from mdae.evaluation.segment.volumes import components, native_probabilities, volumes_ml
from mdae.inference.encoders import open_network
from mdae.inference.fitted import SEEN, Scans, channels_of, entries_of, is_known, prepared_together
from mdae.inference.record import misfit, write_fitted


@dataclass(frozen=True)
class Segmentation:
    """What is segmented of a scan, on the voxels of its file.

    Attributes:
        labels: (D, H, W), the values that the masks had which it was learned from.
        affine: (4, 4), the scan's.
        values: the value of each class, the background's first.
        names: of the classes, likewise.
        probabilities: (K, D, H, W), likewise.
        seen: what the network was shown of the (first) scan, (D, H, W) in RAS.
        seen_labels: (D, H, W), the classes' numbers there.
        warnings: why it may not hold here.
    """

    labels: np.ndarray
    affine: np.ndarray
    values: tuple[int, ...]
    names: tuple[str, ...]
    probabilities: np.ndarray
    seen: np.ndarray
    seen_labels: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of each class but the background."""
        return volumes_ml(self._numbers(), self.affine, self.names)

    def parts(self) -> list[dict[str, object]]:
        """Each connected part with its class, millilitres, and the world millimetres of its middle; largest first."""
        return components(self._numbers(), self.affine, self.names)

    def save(self, path: str | Path) -> None:
        """Write the labels as NIfTI on the scan's own grid."""
        write_nifti(Path(path), self.labels, self.affine)

    def _numbers(self) -> np.ndarray:
        return np.searchsorted(np.array(self.values), self.labels)


@dataclass(frozen=True)
class FittedMasks:
    """What was learned of masks.

    Attributes:
        segmenter: of prepared scans.
        model: how scans are prepared for it.
        about: the record, JSON-able: label names and values, expected, encoder, contrasts, fitted_on and more.
        folder: where it lies, if it was read.
    """

    segmenter: FittedSegmenter
    preparing: Encoder
    about: dict[str, Any]
    folder: Path | None = None

    @property
    def kind(self) -> str:
        """segmentation."""
        return str(self.about["kind"])

    @property
    def expected(self) -> dict[str, dict[str, float | None]]:
        """Each figure's value, low and high on new subjects; no interval where the subjects are too few for one."""
        return dict(self.about["expected"]["scores"])

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Which scans of a subject it wants, in order."""
        return tuple(self.about["contrasts"])

    @property
    def channels(self) -> tuple[str, ...]:
        """The contrasts that the network sees at once, of which a subject may lack some; none if one by one."""
        return channels_of(self.about)

    def save(self, folder: Path) -> None:
        """Write the folder."""
        tensors, about = self.segmenter.state()
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        write_fitted(folder, {**self.about, "segmenter": about}, arrays)

    def predict(self, scan: Scans) -> Segmentation:
        """Segment a raw scan; of several contrasts, of a mapping from contrasts to scans.

        A network that sees them at once takes those that there are of its channels.

        Raises:
            ScanError: a file that cannot be read or is unfit.
            DataError: not the contrasts that were fitted on.
        """
        return self.segment(*self.prepare(entries_of(scan, self.contrasts, some=bool(self.channels))))

    def prepare(self, entries: Mapping[str, ScanEntry]) -> tuple[list[PreparedScan], list[str]]:
        """A subject's scans by contrast, prepared, and what was warned of; may run in threads."""
        return prepared_together(
            shown(entries, self.contrasts, self.channels), self.preparing.read, self.channels
        )

    def segment(self, prepared: Sequence[PreparedScan], notes: Sequence[str] = ()) -> Segmentation:
        """The segmentation on the voxels of the first scan's file, or of the one that gave its session the grid."""
        first, said = prepared[0], list(notes)
        if is_known(prepared, self.about):
            said.append(SEEN)
        probabilities = self.segmenter.probabilities(list(prepared))
        native = native_probabilities(probabilities, first.record)
        values = tuple(int(value) for value in self.about["labels"]["values"])
        kind = np.uint8 if max(values) < 256 else np.uint16
        return Segmentation(
            labels=np.array(values, dtype=kind)[native.argmax(axis=0)],
            affine=np.array(first.record.source_affine),
            values=values,
            names=tuple(self.segmenter.labels),
            probabilities=native,
            seen=first.first if isinstance(first, PreparedSession) else first.data,
            seen_labels=probabilities.argmax(axis=0),
            warnings=tuple(said),
        )


def read_masks(
    folder: Path, about: dict[str, Any], tensors: Mapping[str, np.ndarray], encoder: str, device: str
) -> FittedMasks:
    """A fitted model of masks from its record and arrays.

    Raises:
        ModelError: they do not fit each other, or its pre-trained model is not where it was.
    """
    where = resolve_device(device)
    try:
        model = open_network(about["encoder"], folder, encoder)
        arrays = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        segmenter = FittedSegmenter.from_state(arrays, about["segmenter"], model, device=where)
        fitted = FittedMasks(segmenter, Encoder(model, where), about, folder)
        values = [int(value) for value in about["labels"]["values"]]
        assert len(values) == len(segmenter.labels) and values == sorted(set(values)) and values[0] == 0
        assert fitted.expected is not None and len(fitted.contrasts) == segmenter.num_contrasts
        assert about["fitted_on"]["scans"]["hashes"] is not None
    except (KeyError, TypeError, ValueError, IndexError, AssertionError, AttributeError) as error:
        raise misfit(folder, error) from error
    except ModelError as error:
        raise ModelError(error.what, where=error.where or folder, mend=error.mend) from error
    return fitted
