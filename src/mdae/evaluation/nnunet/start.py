"""Where a segmentation network starts from: one of our models, or an untrained network of a preset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdae.data.contrasts import by_channel
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.extractors import UNTRAINED, is_own, own_model
from mdae.interop.nnunet import nnunet_weights, unet_of
from mdae.networks.unet import ResidualUNet
from mdae.types import Shape3

logger = logging.getLogger(__name__)


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
        channels: the contrasts that it sees at once, in order; none if it was trained on one at a time.
    """

    name: str
    fingerprint: str
    network: ResidualUNet
    contract: Preprocessing
    patch: Shape3
    trained: bool
    pretraining: Mapping[str, Any] | None
    channels: tuple[str, ...] = ()

    def in_order(self, contrasts: Sequence[str]) -> tuple[str, ...]:
        """The contrasts of a task as its channels; raises `ConfigError` where one has none.

        What it has no channel for is not shown to it, and told.
        """
        if not self.channels:
            return tuple(contrasts)
        named = by_channel(contrasts, self.channels)
        if lacking := [name for name in self.channels if name not in named]:
            raise ConfigError(
                f"no {', '.join(lacking)} among {', '.join(contrasts)}, and {self.name} starts from "
                f"{', '.join(self.channels)}",
                mend="use a task that has them, or a model of one contrast",
            )
        if unseen := [name for name in contrasts if name not in named.values()]:
            logger.warning("%s has no channel for %s, which it is not shown", self.name, ", ".join(unseen))
        return tuple(named[name] for name in self.channels)

    def weights(self, num_channels: int) -> dict[str, Tensor] | None:
        """nnU-Net's names to tensors; None for weights of its own."""
        return nnunet_weights(self.network, num_channels) if self.trained else None


def open_start(spec: str) -> Start:
    """A start by the encoder's name.

    Args:
        spec: a model folder, `untrained:PRESET`, or `untrained:MODEL` for one that prepares scans as MODEL does.

    Raises:
        ModelError, ConfigError: no such model, or no network of ours.
    """
    if not is_own(spec):
        raise ConfigError(
            f"{spec} cannot start a segmentation network", mend=f"give a model folder or {UNTRAINED}:PRESET"
        )
    model, name, identity = own_model(spec)
    return Start(
        name=name,
        fingerprint=identity,
        network=unet_of(model.network),
        contract=model.contract,
        patch=model.patch,
        trained=spec.partition(":")[0] != UNTRAINED,
        pretraining=model.provenance.get("scans"),
        channels=model.channels,
    )
