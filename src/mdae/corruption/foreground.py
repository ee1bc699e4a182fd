"""Where a volume has something to teach: blocks that hold more than background."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdae.corruption.mask import any_in_blocks, expand_blocks
from mdae.foreground import is_foreground
from mdae.tensors import Batch, Mask
from mdae.types import Shape3

CONSTANT = 0.25  # of a crop: a value that so many voxels share is no tissue's
ENOUGH = 4096  # voxels to find it


def foreground(clean: Batch, known: Mask | None, *, per_channel: bool) -> Mask:
    """Voxels that differ from their sample's (and channel's) background (`mdae.foreground`).

    Args:
        clean: X0, (B, C, D, H, W).
        known: voxels that count, (B, 1 or C, D, H, W); unknown ones are no foreground. None for all.
        per_channel: whether each channel has its own, else what any channel shows is foreground of all.
    """
    there = is_foreground(clean, find_background(clean, known))
    if known is not None:
        there = there & known
    return there if per_channel else there.any(1, keepdim=True)


def find_background(clean: Batch, known: Mask | None = None) -> Tensor:
    """The background of each sample and channel of a batch of crops, (B, C, 1, 1, 1).

    It is what is constant (padding, air that was clipped, the zeros around a brain), else the darkest. A crop without
    any background has few voxels as dark as its darkest, and blocks of such alone are rarer still, so that it counts
    as foreground nearly whole.
    """
    values = clean if known is None else clean.masked_fill(~known, torch.inf)
    flat = values.flatten(2)
    sparse = flat[..., :: max(1, flat.shape[2] // ENOUGH)]
    common = sparse.mode(dim=2, keepdim=True).values
    constant = ((sparse == common).float().mean(2, keepdim=True) >= CONSTANT) & common.isfinite()
    return torch.where(constant, common, flat.amin(2, keepdim=True))[..., None, None]


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
