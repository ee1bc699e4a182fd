"""Block masks, equations (2) and (3). True = MASKED, hidden from the network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from mdae.types import Shape3

ROUNDING = 1e-4  # of a block: a ratio of 0.55 is a little less in float32, and 100 blocks are 55 all the same


def block_grid(shape: Shape3, block: Shape3) -> Shape3:
    """How many blocks cover a volume; a side that is no multiple ends in a smaller block."""
    grid = [-(-side // edge) for side, edge in zip(shape, block, strict=True)]
    return grid[0], grid[1], grid[2]


def draw_blocks(
    ratio: Tensor, channels: int, grid: Shape3, generator: torch.Generator, *, exact: bool = False
) -> Bool[Tensor, "C gD gH gW"]:
    """Mask each block of one sample independently with probability `ratio`: Bernoulli, not a fixed count (2).

    Args:
        ratio: p_mask, a scalar tensor in [0, 1] on the generator's device; exactly 0 and 1 mask nothing and all.
        channels: 1 for a mask that all channels share, else the number of channels.
        grid: the number of blocks along each axis.
        generator: the source of randomness.
        exact: mask floor(`ratio` n) of the n blocks instead, at least one unless `ratio` is 0; each choice of blocks
            is as likely as any other.
    """
    drawn = torch.rand((channels, *grid), generator=generator, device=generator.device)
    if not exact:
        return drawn < ratio
    ranks = drawn.flatten(1).argsort(1).argsort(1)
    count = (ratio.double() * ranks.shape[1] + ROUNDING).floor().clamp_min(1) * (ratio > 0)
    return (ranks < count).view_as(drawn)


def draw_count(count: int, grid: Shape3, generator: torch.Generator) -> Bool[Tensor, "1 gD gH gW"]:
    """Mask `count` blocks of one sample, each choice of blocks as likely as any other: a fixed count, not Bernoulli.

    At least one block is masked, and at least one is left where there are two.
    """
    total = grid[0] * grid[1] * grid[2]
    order = torch.rand(total, generator=generator, device=generator.device).argsort()
    blocks = torch.zeros(total, dtype=torch.bool, device=generator.device)
    return blocks.index_fill_(0, order[: max(1, min(count, total - 1))], True).view(1, *grid)


def expand_blocks(
    blocks: Bool[Tensor, "B C gD gH gW"], shape: Shape3, block: Shape3
) -> Bool[Tensor, "B C D H W"]:
    """The voxel mask of a block mask: each block repeated over its voxels, cut to the volume."""
    b, c, gd, gh, gw = blocks.shape
    bd, bh, bw = block
    voxels = blocks.view(b, c, gd, 1, gh, 1, gw, 1).expand(b, c, gd, bd, gh, bh, gw, bw)
    full = voxels.reshape(b, c, gd * bd, gh * bh, gw * bw)
    return full[:, :, : shape[0], : shape[1], : shape[2]]


def any_in_blocks(voxels: Bool[Tensor, "B C D H W"], block: Shape3) -> Bool[Tensor, "B C gD gH gW"]:
    """Whether each block holds a true voxel; of a smaller last block, its voxels alone count."""
    shape = (voxels.shape[2], voxels.shape[3], voxels.shape[4])
    gd, gh, gw = block_grid(shape, block)
    bd, bh, bw = block
    pads = (0, gw * bw - shape[2], 0, gh * bh - shape[1], 0, gd * bd - shape[0])
    full = F.pad(voxels, pads).reshape(*voxels.shape[:2], gd, bd, gh, bh, gw, bw)
    return full.any(7).any(5).any(3)


def draw_blocks_of_several_sizes(
    ratio: Tensor,
    channels: int,
    shape: Shape3,
    edges: tuple[int, ...],
    generator: torch.Generator,
    *,
    exact: bool = False,
) -> tuple[Tensor, Bool[Tensor, "C gD gH gW"]]:
    """Choose an edge with equal chance, and mask the cubes of that edge as `draw_blocks` does.

    Every edge's blocks are drawn and one edge's are kept, so that no device waits for the choice.

    Args:
        ratio, channels, generator, exact: as for `draw_blocks`.
        shape: the volume in voxels.
        edges: the edges in voxels.

    Returns:
        The index of the chosen edge, a scalar, and the mask on the grid of cubes of the edges' common divisor.
    """
    unit = math.gcd(*edges)
    fine = block_grid(shape, (unit, unit, unit))
    choice = torch.randint(len(edges), (1,), generator=generator, device=generator.device)
    masks = []
    for edge in edges:
        drawn = draw_blocks(ratio, channels, block_grid(shape, (edge, edge, edge)), generator, exact=exact)
        times = edge // unit
        masks.append(expand_blocks(drawn[None], fine, (times, times, times))[0])
    return choice[0], torch.stack(masks).index_select(0, choice)[0]
