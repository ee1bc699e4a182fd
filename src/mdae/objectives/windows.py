"""Boxes of random size and place in a volume, as tensors: drawn together, painted one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdae.tensors import constant
from mdae.types import Shape3


class Windows(NamedTuple):
    """Boxes of voxels, from `start` up to and without `stop`; both (N, 3)."""

    start: Tensor
    stop: Tensor


def draw_windows(
    number: int, low: Shape3, high: Shape3, shape: Shape3, generator: torch.Generator, *, margin: int = 0
) -> Windows:
    """Draw boxes whose sides, and then places, are uniform and independent along each axis.

    Args:
        number: how many.
        low, high: the smallest and largest sides in voxels, both drawn; at least 1 and at most the volume's.
        shape: the volume's.
        generator: the source of randomness; the boxes are on its device.
        margin: voxels that stay free at each end, as far as a box leaves room for them.
    """
    device = generator.device
    sides, smallest, largest = (constant(values, torch.int64, device) for values in (shape, low, high))
    u = torch.rand(number, 6, generator=generator, device=device)
    smallest = torch.minimum(smallest.clamp_min(1), sides)
    largest = torch.minimum(torch.maximum(largest, smallest), sides)
    size = smallest + whole(u[:, :3], largest - smallest + 1)
    free = ((sides - size) // 2).clamp_max(margin)
    start = free + whole(u[:, 3:], sides - size - 2 * free + 1)
    return Windows(start, start + size)


def whole(u: Tensor, number: Tensor | int) -> Int[Tensor, "..."]:
    """Uniform integers in [0, number) from uniform numbers in [0, 1)."""
    scaled = torch.floor(u * number).long()
    if isinstance(number, int):
        return scaled.clamp_max(number - 1)  # u * number may round up
    return torch.minimum(scaled, number - 1)


def inside(start: Tensor, stop: Tensor, shape: Shape3) -> Bool[Tensor, "B 1 D H W"]:
    """The voxels of one box a sample; `start` and `stop` are (B, 3)."""
    along = []
    for axis, side in enumerate(shape):
        places = torch.arange(side, device=start.device)
        view = [-1, 1, 1, 1, 1]
        view[2 + axis] = side
        along.append(((places >= start[:, axis, None]) & (places < stop[:, axis, None])).view(view))
    return along[0] & along[1] & along[2]
