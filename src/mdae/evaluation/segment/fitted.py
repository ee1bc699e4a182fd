"""A segmenter from few masks: fitted on prepared volumes, kept as tensors and a description, applied to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from mdae.data.preprocess import PreparedScan
from mdae.errors import DataError, ModelError
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.network import FrozenMaps, SegmentationNetwork
from mdae.evaluation.segment.volumes import Volume, volume_of
from mdae.evaluation.segment.windows import scores_of
from mdae.evaluation.voxel_probe.regression import Readout
from mdae.networks.saved import SavedModel
from mdae.options import AugmentOptions

FORMAT = 1
NETWORK, READOUT = "network.", "readout."


@dataclass(frozen=True)
class FittedSegmenter:
    """What was learned of a few masks; `mdae.evaluation.segment.segmenter.fit_segmenter` makes one.

    Attributes:
        labels: the names of the numbers from 0, the background.
        num_contrasts: C of the volumes.
        features: of single voxels.
        readout: of them.
        network: whose head is the readout, or that was fine-tuned from there; None without a pre-trained model.
        tuned: whether it was.
        options: how it was fitted, and how scans are gone through.
        notes: how it went, JSON-able, for whoever reads the description.
        held_out: (V, K - 1) Dice of each volume that was learned from, of each label, by a network that learned from
            other subjects alone, at the step that was chosen; None without inner folds, and once it is kept and read.
    """

    labels: tuple[str, ...]
    num_contrasts: int
    features: VoxelFeatures
    readout: Readout
    network: SegmentationNetwork | None
    tuned: bool
    options: FewLabelOptions
    notes: Mapping[str, Any]
    held_out: np.ndarray | None = None

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
        return np.asarray(softmax(self.scores(volume), axis=0), dtype=np.float32)

    def scores(self, volume: Volume) -> np.ndarray:
        """What probabilities are the softmax of, (K, D, H, W) float32."""
        context = self.features.linear_of_context(volume, self.readout.weights)
        if self.network is None:
            return np.asarray(context + self.readout.biases[:, None, None, None], dtype=np.float32)
        return np.asarray(context + scores_of(self.network, volume, self.options))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and a JSON-able description, from which `from_state` makes the same segmenter.

        They hold the network's weights if it was fine-tuned; else the pre-trained model has them.
        """
        tensors = {
            f"{READOUT}{name}": torch.from_numpy(getattr(self.readout, name).astype(np.float32))
            for name in ("weights", "biases", "spread")
        }
        if self.network is not None and self.tuned:
            weights = self.network.state_dict()
            tensors |= {f"{NETWORK}{name}": value.cpu().contiguous() for name, value in weights.items()}
        about = {
            "format": FORMAT,
            "labels": list(self.labels),
            "num_contrasts": self.num_contrasts,
            "encoder": self.network is not None,
            "context": self.features.place,
            "tuned": self.tuned,
            "options": self.options.fingerprint(),
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
            return cls._from_state(tensors, about, model, device)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"not a segmenter of this version or of this encoder ({type(error).__name__}: {reason})",
                mend="use the encoder that it was fitted with",
            ) from error

    @classmethod
    def _from_state(
        cls,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        model: SavedModel | None,
        device: str | torch.device,
    ) -> FittedSegmenter:
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        if not about["encoder"]:
            model = None
        elif model is None:
            raise ValueError("it needs its pre-trained model")
        labels, contrasts = tuple(map(str, about["labels"])), int(about["num_contrasts"])
        features = voxel_features(model, bool(about["context"]), device)
        readout = Readout(
            *(tensors[f"{READOUT}{name}"].double().numpy() for name in ("weights", "biases", "spread"))
        )
        if readout.weights.shape != (len(labels), features.number(contrasts)):
            raise ValueError(f"a readout of shape {readout.weights.shape}")
        network = None if model is None else network_of(model, features, readout, contrasts, device)
        tuned = bool(about["tuned"])
        if network is not None and tuned:
            own = {n.removeprefix(NETWORK): v for n, v in tensors.items() if n.startswith(NETWORK)}
            network.load_state_dict(own)
        options = dict(about["options"])
        options["augment"] = AugmentOptions(**options["augment"])
        return cls(
            labels,
            contrasts,
            features,
            readout,
            network,
            tuned,
            FewLabelOptions(**options),
            dict(about["notes"]),
        )


def stacked(
    fitted: Sequence[FittedSegmenter], model: SavedModel | None, device: str | torch.device
) -> FittedSegmenter:
    """Readouts of one frozen network as one: its labels are those of each in turn, and its maps are computed once.

    Args:
        fitted: of equal contrasts and options, none of them fine-tuned.
        model: whose maps they read; None for place and intensities alone.
        device: where to compute.
    """
    first = fitted[0]
    readout = Readout(
        np.concatenate([own.readout.weights for own in fitted]),
        np.concatenate([own.readout.biases for own in fitted]),
        first.readout.spread,
    )
    network = (
        None if model is None else network_of(model, first.features, readout, first.num_contrasts, device)
    )
    return replace(
        first, labels=tuple(label for own in fitted for label in own.labels), readout=readout, network=network
    )


def voxel_features(model: SavedModel | None, context: bool, device: str | torch.device) -> VoxelFeatures:
    """The maps of a model, if there is one, with place and intensities beside them, if wanted."""
    beside = context or model is None
    return VoxelFeatures(None if model is None else FrozenMaps(model, device), beside, beside)


def network_of(
    model: SavedModel,
    features: VoxelFeatures,
    readout: Readout,
    num_contrasts: int,
    device: str | torch.device,
) -> SegmentationNetwork:
    """A model's network whose head is a readout, but for what that says of place and intensities."""
    network = SegmentationNetwork(model, len(readout.weights), num_contrasts)
    weights = features.of_encoder(readout.weights, num_contrasts)
    spread = [own[0] for own in features.of_encoder(readout.spread[None], num_contrasts)]
    network.start_from(weights, readout.biases, spread)
    return network.eval().to(device)
