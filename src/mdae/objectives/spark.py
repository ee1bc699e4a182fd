"""SparK: masked modelling for convolutions. The encoder computes on visible voxels alone, as a sparse one.

Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, ICLR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mdae.corruption import block_grid, draw_count, expand_blocks
from mdae.errors import ConfigError
from mdae.networks import Network, SparseNetwork
from mdae.networks.base import SparseFeatures
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.tensors import Batch, Mask, PerSample
from mdae.types import Shape3

TOKEN_STD = 0.02
TARGET_EPS = 1e-6
IN_BLOCK = (1, 3, 5, 7)  # axes of `blockwise` that one block has: channels and voxels


@dataclass(frozen=True, kw_only=True)
class SparKConfig:
    """What is masked.

    Args:
        ratio: the share of blocks, a fixed count.
        block: the edges of a block in voxels; None for the network's stride, so that a voxel of the deepest stage is
            either visible or not, as in the paper.
    """

    ratio: float = 0.6
    block: Shape3 | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mask ratio {self.ratio}", mend="give a number between 0 and 1")
        if self.block is not None and min(self.block) < 1:
            raise ConfigError(f"mask block {self.block}", mend="give three edges of 1 voxel or more")


class SparK(Objective):
    """Fill every stage's hidden voxels with that stage's token, and let the decoder predict the masked blocks."""

    def __init__(self, network: Network, config: SparKConfig) -> None:
        super().__init__(network)
        if not isinstance(network, SparseNetwork):
            raise ConfigError(
                f"SparK needs an encoder that computes from visible voxels alone, as {type(network).__name__} cannot",
                mend="use --objective mae, or a network with sparse_stages",
            )
        self.config = config
        self.block = config.block or (network.stride, network.stride, network.stride)
        self.mask_tokens = nn.ParameterList(torch.zeros(channels) for channels in network.widths)

    def initialise_heads(self, generator: torch.Generator) -> None:
        super().initialise_heads(generator)
        for token in self.mask_tokens:
            nn.init.trunc_normal_(token, std=TOKEN_STD, a=-TOKEN_STD, b=TOKEN_STD, generator=generator)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Mask, encode what is visible, fill in tokens, predict, compare masked blocks with their normalised selves."""
        blocks = self.draw_blocks((clean.shape[2], clean.shape[3], clean.shape[4]), generators)
        visible = ~expand_blocks(blocks, (clean.shape[2], clean.shape[3], clean.shape[4]), self.block)
        told = clean
        if known is not None:
            told = clean.masked_fill(~known, 0.0)
            visible = visible & known.any(dim=1, keepdim=True)
        prediction = self.predict(told, visible)
        target = normalised_blocks(told, known, self.block)
        error = masked_block_error(prediction.float(), target, blocks)
        pictures = {}
        if not self.training:
            restored = blockwise(prediction.detach().float(), self.block) * target.std + target.mean
            pictures = {
                "clean": clean,
                "corrupted": told.masked_fill(~visible, 0.0),
                "reconstructed": whole_volume(restored, clean.shape),
            }
        loss = error.mean()
        return StepOutput(loss, {"masked": loss.detach()}, pictures)

    def draw_blocks(
        self, shape: Shape3, generators: Sequence[torch.Generator]
    ) -> Bool[Tensor, "B 1 gD gH gW"]:
        """The masked blocks."""
        grid = block_grid(shape, self.block)
        total = math.prod(grid)
        count = total - round(total * (1 - self.config.ratio))
        return torch.stack([draw_count(count, grid, generator) for generator in generators])

    def predict(self, x: Batch, visible: Bool[Tensor, "B 1 D H W"]) -> Batch:
        """Every block in units of its own mean and deviation, from the visible voxels of `x`."""
        network, t = self.network, x.new_zeros(len(x))
        assert isinstance(network, SparseNetwork)
        return network.decode(self.densified(network.sparse_stages(x, visible, t)), t)

    def densified(self, stages: Sequence[SparseFeatures]) -> list[Tensor]:
        """Each stage's features with its token at every hidden voxel."""
        return [
            torch.where(stage.visible, stage.features, token.to(stage.features.dtype).view(1, -1, 1, 1, 1))
            for stage, token in zip(stages, self.mask_tokens, strict=True)
        ]


class BlockTarget(NamedTuple):
    """What masked blocks are compared with, all in the shape of `blockwise` or that with single axes.

    `values` are normalised by `mean` and `std` of their block; `counts` is 1 on the voxels that count.
    """

    values: Tensor
    counts: Tensor
    mean: Tensor
    std: Tensor


def blockwise(x: Batch, block: Shape3) -> Float[Tensor, "B C gD bD gH bH gW bW"]:
    """A volume cut into blocks, with zeros behind the ends that are no multiple."""
    b, c, *sides = x.shape
    grid = block_grid((sides[0], sides[1], sides[2]), block)
    pads = [number * edge - side for number, edge, side in zip(grid, block, sides, strict=True)]
    padded = F.pad(x, (0, pads[2], 0, pads[1], 0, pads[0])) if any(pads) else x
    return padded.reshape(b, c, grid[0], block[0], grid[1], block[1], grid[2], block[2])


def whole_volume(blocks: Float[Tensor, "B C gD bD gH bH gW bW"], shape: Sequence[int]) -> Batch:
    """The inverse of `blockwise`."""
    b, c, gd, bd, gh, bh, gw, bw = blocks.shape
    return blocks.reshape(b, c, gd * bd, gh * bh, gw * bw)[:, :, : shape[2], : shape[3], : shape[4]]


def normalised_blocks(clean: Batch, known: Mask | None, block: Shape3) -> BlockTarget:
    """Each block less its mean, over its standard deviation, across channels; unknown voxels do not count."""
    real = torch.ones_like(clean) if known is None else known.expand_as(clean).to(clean.dtype)
    counts, values = blockwise(real, block), blockwise(clean, block)
    number = counts.sum(IN_BLOCK, keepdim=True)
    mean = (values * counts).sum(IN_BLOCK, keepdim=True) / number.clamp_min(1)
    centred = (values - mean) * counts
    std = (centred.square().sum(IN_BLOCK, keepdim=True) / (number - 1).clamp_min(1) + TARGET_EPS).sqrt()
    return BlockTarget(centred / std, counts, mean, std)


def masked_block_error(
    prediction: Batch, target: BlockTarget, blocks: Bool[Tensor, "B 1 gD gH gW"]
) -> PerSample:
    """The mean over a sample's masked blocks of the mean squared error within each; 0 if it has none."""
    edges = target.values.shape[3::2]
    error = (blockwise(prediction, (edges[0], edges[1], edges[2])) - target.values) * target.counts
    number = target.counts.sum(IN_BLOCK)
    each = error.square().sum(IN_BLOCK) / number.clamp_min(1)
    masked = blocks[:, 0] & (number > 0)
    return each.masked_fill(~masked, 0.0).sum((1, 2, 3)) / masked.sum((1, 2, 3)).clamp_min(1)


register(
    "spark",
    ObjectiveSpec(
        paper="Tian et al., Designing BERT for Convolutional Networks (SparK), ICLR 2023",
        summary="inpaint what is masked, with an encoder that computes on visible voxels alone",
        settings=SparKConfig(),
        build=SparK,
    ),
)
