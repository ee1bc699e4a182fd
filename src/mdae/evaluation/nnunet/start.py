"""Where a segmentation network starts from: one of our models, or an untrained network of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.extractors import UNTRAINED, is_own, model_name
from mdae.interop.checkpoints import file_identity
from mdae.interop.nnunet import nnunet_weights, unet_of
from mdae.networks import preset
from mdae.networks.saved import WEIGHTS, load_model
from mdae.networks.unet import ResidualUNet
from mdae.types import Shape3

NO_SCANS = {"salt": "", "hashes": []}  # the manifest of an encoder that has seen none


@dataclass(frozen=True)
class Start:
    """A network to train on a segmentation task.

    Attributes:
        name: for tables.
        fingerprint: what tells its weights from others'.
        network: on the CPU.
        contract: whose spacing the task's scans are brought to.
        patch: of pre-training, in voxels.
        trained: whether its weights are worth anything; if not, nnU-Net begins with weights of its own.
        pretraining: salted hashes of the scans that it was pre-trained on; None if nobody knows.
    """

    name: str
    fingerprint: str
    network: ResidualUNet
    contract: Preprocessing
    patch: Shape3
    trained: bool
    pretraining: Mapping[str, Any] | None

    def weights(self, num_channels: int) -> dict[str, Tensor] | None:
        """nnU-Net's names to tensors; None for weights of its own."""
        return nnunet_weights(self.network, num_channels) if self.trained else None


def open_start(spec: str) -> Start:
    """A start by the encoder's name.

    Args:
        spec: a model folder, or `untrained:PRESET`.

    Raises:
        ModelError, ConfigError: no such model, or no network of ours.
    """
    kind, _, name = spec.partition(":")
    if kind == UNTRAINED:
        chosen = preset(name or "tiny")
        network = unet_of(chosen.new())
        return Start(
            f"{UNTRAINED}-{name or 'tiny'}", spec, network, Preprocessing(), chosen.patch, False, NO_SCANS
        )
    if not is_own(spec):
        raise ConfigError(
            f"{spec} cannot start a segmentation network", mend=f"give a model folder or {UNTRAINED}:PRESET"
        )
    path = Path(spec)
    model = load_model(path)
    return Start(
        name=model_name(path),
        fingerprint=file_identity(path / WEIGHTS),
        network=unet_of(model.network),
        contract=model.contract,
        patch=model.patch,
        trained=True,
        pretraining=model.provenance.get("scans"),
    )
