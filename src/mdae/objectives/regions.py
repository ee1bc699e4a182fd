"""Means over part of each sample's voxels."""

from __future__ import annotations

from torch import Tensor

from mdae.tensors import Batch, Mask, PerSample


def region_mean(values: Batch, region: Mask | None) -> PerSample:
    """The mean of `values` over each sample's region, (B,), in float32; 0 where a sample's region is empty.

    Args:
        values: (B, C, D, H, W).
        region: True on what counts, (B, 1 or C, D, H, W); None for all.
    """
    values = values.float()
    over_sample = (1, 2, 3, 4)
    if region is None:
        return values.mean(over_sample)
    shared = values.shape[1] // region.shape[1]  # channels that one channel of the region stands for
    total: Tensor = values.masked_fill(~region, 0.0).sum(over_sample)
    return total / (region.sum(over_sample) * shared).clamp_min(1)
