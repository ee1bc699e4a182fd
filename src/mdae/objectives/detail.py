"""The error in the gradient domain: a term for edges, beside the voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from mdae.tensors import Batch, Mask


def gradient_term(prediction: Batch, clean: Batch, region: Mask | None) -> Tensor:
    """The mean squared error of the finite differences of X^, sample by sample, (B,); 0 where a sample has none.

    The mean is taken channel by channel, and then over the channels that have any.

    A difference is one between neighbours along an axis, in z-scores a voxel, and counts where both lie in the region.
    By Parseval it is the voxels' error weighted by 4 sin^2(w / 2) at frequency w along each axis: fine detail counts,
    brightness does not.

    Args:
        prediction: X^, (B, C, D, H, W).
        clean: X0, the same shape.
        region: voxels that the loss is taken on, (B, 1 or C, D, H, W); None for all.
    """
    error = prediction.float() - clean.float()
    inside = torch.ones_like(error[:, :1], dtype=torch.bool) if region is None else region
    voxels = (2, 3, 4)
    total, number = error.new_zeros(error.shape[:2]), error.new_zeros(inside.shape[:2])
    for axis in (2, 3, 4):
        side = error.shape[axis]
        pairs = inside.narrow(axis, 1, side - 1) & inside.narrow(axis, 0, side - 1)
        total = total + error.diff(dim=axis).square().masked_fill(~pairs, 0.0).sum(voxels)
        number = number + pairs.sum(voxels)
    channels = (number > 0).sum(1) * (error.shape[1] // inside.shape[1])
    return (total / number.clamp_min(1)).sum(1) / channels.clamp_min(1)
