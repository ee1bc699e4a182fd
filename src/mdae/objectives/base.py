"""What the training loop knows of a pre-training method: a step that returns loss, logs and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mdae.networks import ResidualUNet
from mdae.tensors import Batch, Mask


class StepOutput(NamedTuple):
    """The outcome of one step.

    Attributes:
        loss: the scalar to minimise, a mean over the batch's samples.
        logs: detached scalars by name, each a mean over the samples it is defined for; NaN where there is none.
        pictures: detached volumes by name, (B, C, D, H, W), for looking at; none while training.
    """

    loss: Tensor
    logs: dict[str, Tensor]
    pictures: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A pre-training method on a network.

    It sees a batch and one generator a sample; never an optimiser, device, epoch or logger. A sample's randomness
    comes from its own generator alone, so that results do not depend on how samples are spread over ranks.

    Args:
        network: the U-Net whose encoder is to be learned.
    """

    def __init__(self, network: ResidualUNet) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """One step on clean, z-scored volumes (B, C, D, H, W).

        Args:
            clean: the volumes; 0 where they are unknown.
            generators: one a sample.
            known: False on voxels that nobody knows, because they were defaced say: the network must not see them and
                nothing may be learned from them. None if all are known.
        """
