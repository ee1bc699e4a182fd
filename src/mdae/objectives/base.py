"""What the training loop knows of a pre-training method: a step that returns loss, logs and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.networks.norm import NEGATIVE_SLOPE
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

    A subclass takes the network and its settings, and says what it needs of the network: "restore", a volume from a
    volume, or "stages" alone. Of what it does not need nothing is trained: the decoder is frozen and time left out, so
    that the fold at any time is the very network that was trained, bit for bit. Further parameters that it does not
    train it freezes in its constructor: training on several devices waits for the gradient of every other. Heads of its
    own are attributes beside the network; they are trained, kept in checkpoints, and left out of the saved model.

    Args:
        network: whose encoder is to be learned.

    Attributes:
        needs: what it calls of the network.
        mixes_samples: whether a sample's loss depends on the others of its batch (negatives, mixed volumes). The batch
            is what one device takes at once.
        min_batch: the fewest samples it can learn from at once.
    """

    needs: ClassVar[Literal["restore", "stages"]] = "restore"
    mixes_samples: ClassVar[bool] = False
    min_batch: ClassVar[int] = 1

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        if self.needs == "stages":
            network.freeze_decoder()
            network.freeze_time()

    def initialise_heads(self, generator: torch.Generator) -> None:
        """Draw the weights of all convolutions and matrices outside the network, after He, on the CPU; biases are 0.

        An objective with other random parameters, such as a mask token, draws them here too.
        """
        inside = set(self.network.modules())
        for module in self.modules():
            if module in inside or not isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
                continue
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def check_batch(self, batch: int) -> None:
        """Raise `ConfigError` for fewer samples than it can learn from."""
        if batch < self.min_batch:
            raise ConfigError(
                f"{type(self).__name__} compares samples with each other and was given {batch}",
                mend=f"use --batch for {self.min_batch} or more on each device at once",
            )

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
