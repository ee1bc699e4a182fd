"""SimMIM: masked blocks become a learned token, and a linear head predicts their voxels, with an L1 loss on them alone.

Xie et al., SimMIM: a Simple Framework for Masked Image Modeling, CVPR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdae.corruption import block_grid, draw_count, expand_blocks
from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.regions import region_mean
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.tensors import Batch, Mask
from mdae.types import Shape3

TOKEN_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class SimMIMConfig:
    """What is masked.

    Args:
        ratio: the share of blocks, a fixed count, rounded up.
        block: the edges of a block in voxels. The paper's 32 pixels are a sixth of its images' side.
    """

    ratio: float = 0.6
    block: Shape3 = (16, 16, 16)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mask ratio {self.ratio}", mend="give a number between 0 and 1")
        if min(self.block) < 1:
            raise ConfigError(f"mask block {self.block}", mend="give three edges of 1 voxel or more")


class SimMIM(Objective):
    """The encoder sees tokens for masked blocks; a 1x1x1 convolution of its deepest stage is the whole decoder.

    A transformer's token stands for an embedded block. A convolution has no embedding that stays within a block,
    so the token is put where the voxels were: one learned block, the same for all places.
    """

    needs = "stages"

    def __init__(self, network: Network, config: SimMIMConfig) -> None:
        super().__init__(network)
        self.config = config
        channels, stride = network.in_channels, network.strides[-1]
        self.mask_token = nn.Parameter(torch.zeros(channels, *config.block))
        self.head = nn.Conv3d(network.widths[-1], channels * stride**3, 1)

    def initialise_heads(self, generator: torch.Generator) -> None:
        super().initialise_heads(generator)
        nn.init.trunc_normal_(self.mask_token, std=TOKEN_STD, generator=generator)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Mask, predict, compare where masked; unknown voxels are hidden and enter no loss."""
        mask = self.draw_mask((clean.shape[2], clean.shape[3], clean.shape[4]), generators)
        seen = torch.where(mask, self._tokens(clean), clean)
        seen = seen if known is None else seen.masked_fill(~known, 0.0)
        prediction = self.predict(seen)
        error = region_mean((prediction.float() - clean).abs(), mask if known is None else mask & known)
        pictures = {}
        if not self.training:
            pictures = {"clean": clean, "corrupted": seen.detach(), "reconstructed": prediction.detach()}
        loss = error.mean()
        return StepOutput(loss, {"masked": loss.detach()}, pictures)

    def draw_mask(self, shape: Shape3, generators: Sequence[torch.Generator]) -> Mask:
        """True where masked, (B, 1, D, H, W)."""
        grid = block_grid(shape, self.config.block)
        count = math.ceil(self.config.ratio * math.prod(grid))
        blocks = torch.stack([draw_count(count, grid, generator) for generator in generators])
        return expand_blocks(blocks, shape, self.config.block)

    def predict(self, seen: Batch) -> Batch:
        """The volumes (B, C, D, H, W) from what is seen of them: every deepest voxel predicts the ones below it."""
        return voxel_shuffle(self.head(self.network.stages(seen)[-1]), self.network.strides[-1])

    def _tokens(self, like: Batch) -> Batch:
        """The token in every block of a volume, (1, C, D, H, W)."""
        spatial = (like.shape[2], like.shape[3], like.shape[4])
        grid = block_grid(spatial, self.config.block)
        return self.mask_token.repeat(1, *grid)[None, :, : spatial[0], : spatial[1], : spatial[2]]


def voxel_shuffle(x: Batch, factor: int) -> Batch:
    """Spread channels over voxels: (B, C f^3, D, H, W) to (B, C, f D, f H, f W)."""
    b, c, d, h, w = x.shape
    parts: Tensor = x.reshape(b, c // factor**3, factor, factor, factor, d, h, w)
    spread = parts.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return spread.reshape(b, c // factor**3, d * factor, h * factor, w * factor)


register(
    "simmim",
    ObjectiveSpec(
        paper="Xie et al., SimMIM: a Simple Framework for Masked Image Modeling, CVPR 2022",
        summary="predict masked blocks from a learned token, by a linear head",
        settings=SimMIMConfig(),
        build=SimMIM,
    ),
)
