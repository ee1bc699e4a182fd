"""A segmenter from few masks: fitted on prepared volumes, kept as tensors and a description, applied to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from mdae.data.preprocess import PreparedScan
from mdae.errors import DataError, ModelError
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.volumes import UNLABELLED, LabelledVolume, Volume, volume_of
from mdae.evaluation.voxel_probe.regression import Points, Readout, fit_readout
from mdae.networks.saved import SavedModel
from mdae.seeding import numpy_generator

ALL_POINTS = 60_000  # of all volumes: more hardly move a linear function
FORMAT = 1


@dataclass(frozen=True)
class FittedSegmenter:
    """What was learned of a few masks.

    Attributes:
        labels: the names of the numbers from 0, the background.
        num_contrasts: C of the volumes.
        features: of single voxels.
        readout: of them.
        notes: how it went, JSON-able, for whoever reads the description.
    """

    labels: tuple[str, ...]
    num_contrasts: int
    features: VoxelFeatures
    readout: Readout
    notes: Mapping[str, Any]

    def probabilities(self, scans: PreparedScan | Sequence[PreparedScan] | Volume) -> np.ndarray:
        """The labels' probabilities (K, D, H, W), float32, of a subject on the (first) prepared scan's grid.

        The label of the highest is the segmentation; the background is favoured or disfavoured as Dice is best by it.

        Args:
            scans: prepared by the model's contract, as many contrasts as it was fitted on and in their order.

        Raises:
            DataError: another number of contrasts.
        """
        volume = scans if isinstance(scans, Volume) else volume_of(scans)
        if len(volume.data) != self.num_contrasts:
            raise DataError(
                f"{len(volume.data)} contrasts for a segmenter of {self.num_contrasts}",
                mend="give every contrast that it was fitted on, in order",
            )
        scores = self.features.linear(volume, self.readout.weights)
        scores += self.readout.biases[:, None, None, None].astype(np.float32)
        return np.asarray(softmax(scores, axis=0), dtype=np.float32)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and a JSON-able description, from which `from_state` makes the same segmenter."""
        tensors = {
            "readout.weights": torch.from_numpy(self.readout.weights.astype(np.float32)),
            "readout.biases": torch.from_numpy(self.readout.biases.astype(np.float32)),
        }
        about = {
            "format": FORMAT,
            "labels": list(self.labels),
            "num_contrasts": self.num_contrasts,
            "encoder": self.features.encoder is not None,
            "context": self.features.context,
            "notes": dict(self.notes),
        }
        return tensors, about

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        model: SavedModel | None,
        *,
        device: str | torch.device = "cpu",
    ) -> FittedSegmenter:
        """The inverse of `state`.

        Args:
            tensors, about: what `state` gave.
            model: the pre-trained one that it was fitted with; None if it was fitted without any.
            device: where to compute.

        Raises:
            ModelError: tensors or a model that do not fit the description.
        """
        try:
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}")
            labels, contrasts = tuple(map(str, about["labels"])), int(about["num_contrasts"])
            if about["encoder"] and model is None:
                raise ValueError("it needs its pre-trained model")
            features = VoxelFeatures(
                _encoder(model if about["encoder"] else None, device), bool(about["context"])
            )
            weights, biases = (tensors[f"readout.{name}"].double().numpy() for name in ("weights", "biases"))
            shapes = (weights.shape, biases.shape)
            if shapes != ((len(labels), features.number(contrasts)), (len(labels),)):
                raise ValueError(f"a readout of shape {weights.shape}")
            return cls(labels, contrasts, features, Readout(weights, biases), dict(about["notes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"not a segmenter of this version or of this encoder ({type(error).__name__}: {error})",
                mend="use the encoder that it was fitted with",
            ) from error


def fit_segmenter(
    subjects: Sequence[LabelledVolume],
    model: SavedModel | None,
    options: FewLabelOptions,
    labels: Sequence[str],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FittedSegmenter:
    """Learn a segmentation from labelled volumes.

    Args:
        subjects: one volume or more, one subject or more; offsets, epochs and whether to fine-tune at all are chosen on
            some of the subjects that the rest was not learned from.
        model: a pre-trained model, whose contract the volumes were prepared by; None for place and intensities alone.
        options: how.
        labels: the names of the numbers from 0, the background.
        seed: of all that is drawn.
        device: where to compute.

    Raises:
        DataError: no volume, or none with a label.
    """
    if not subjects:
        raise DataError("no labelled volume", mend="give one or more scans with a mask")
    features = VoxelFeatures(_encoder(model, device), options.context or model is None)
    points = draw_points(subjects, features, options.points, seed)
    readout = fit_readout(points, len(labels))
    notes = {
        "subjects": len({own.subject for own in subjects}),
        "volumes": len(subjects),
        "chosen": "readout",
    }
    return FittedSegmenter(tuple(labels), len(subjects[0].volume.data), features, readout, notes)


def _encoder(model: SavedModel | None, device: str | torch.device) -> Encoder | None:
    return None if model is None else Encoder(model, device)


def draw_points(
    subjects: Sequence[LabelledVolume], features: VoxelFeatures, number: int, seed: int
) -> list[Points]:
    """Some voxels of each label and volume, with their features."""
    drawn = []
    for index, own in enumerate(subjects):
        rng = numpy_generator(seed, "voxels", index)
        present = np.unique(own.labels[own.labels != UNLABELLED])
        share = max(1, min(number, ALL_POINTS // (len(subjects) * max(1, len(present)))))
        chosen, stand_for = [], []
        for label in present.tolist():
            there = np.flatnonzero(own.labels == label)
            some = np.sort(rng.choice(there, size=min(len(there), share), replace=False))
            chosen.append(some)
            stand_for.append(np.full(len(some), len(there) / len(some)))
        places = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
        voxels = np.stack(np.unravel_index(places, own.labels.shape), axis=1)
        drawn.append(
            Points(
                own.subject,
                features.at(own.volume, voxels),
                own.labels[tuple(voxels.T)].astype(np.int64),
                np.concatenate(stand_for) if stand_for else np.zeros(0),
            )
        )
    return drawn
