"""Where a volume has something to teach: blocks that hold more than background."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdae.corruption.mask import any_in_blocks, expand_blocks
from mdae.tensors import Batch, Mask
from mdae.types import Shape3

ABOVE_BACKGROUND = 0.25  # standard deviations above the darkest voxel, to count as foreground


def foreground(clean: Batch, known: Mask | None, *, per_channel: bool) -> Mask:
    """Voxels that are brighter than their sample's (and channel's) darkest known voxel by more than a trifle.

    Background is dark and flat in a z-scored scan. A crop without any has few voxels as dark as its darkest, and
    blocks of such alone are rarer still, so that it counts as foreground nearly whole.

    Args:
        clean: X0, (B, C, D, H, W).
        known: voxels that count, (B, 1 or C, D, H, W); unknown ones are no foreground. None for all.
        per_channel: whether each channel has its own, else what any channel shows is foreground of all.
    """
    floor = clean if known is None else clean.masked_fill(~known, torch.inf)
    bright = clean > floor.amin((2, 3, 4), keepdim=True) + ABOVE_BACKGROUND
    if known is not None:
        bright = bright & known
    return bright if per_channel else bright.any(1, keepdim=True)


def foreground_blocks(
    voxels: Bool[Tensor, "B C D H W"], blocks: list[Shape3], choice: Int[Tensor, "B"] | None
) -> Bool[Tensor, "B C D H W"]:
    """All voxels of every block that holds foreground.

    Args:
        voxels: foreground.
        blocks: the edges of a block, or of several sizes among which `choice` chooses for each sample.
        choice: an index into `blocks` a sample; None takes the first.
    """
    shape = (voxels.shape[2], voxels.shape[3], voxels.shape[4])
    sizes = [expand_blocks(any_in_blocks(voxels, block), shape, block) for block in blocks]
    if choice is None:
        return sizes[0]
    return torch.stack(sizes)[choice, torch.arange(len(choice), device=choice.device)]
