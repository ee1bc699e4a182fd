"""Windows of the training patch over volumes of any size.

Instance normalisation makes a network feel the size and the content of its field of view: a volume seen whole has other
statistics than the crops of training. Windows of the training patch keep them the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mdae.types import Shape3

AT_ONCE = 8  # windows in a batch

Fill = float | Sequence[float]  # of all channels, or of each


def window_starts(
    shape: Sequence[int], patch: Shape3, *, overlap: float = 0.0, centre_only: bool = False
) -> list[Shape3]:
    """The corners of as few evenly spaced windows as cover a volume; negative where it is smaller than one.

    Args:
        shape: of the volume.
        patch: of a window.
        overlap: the least share of a window that the next one shares with it, along each axis.
        centre_only: the middle window alone.
    """
    axes = []
    for side, edge in zip(shape, patch, strict=True):
        middle = (side - edge) // 2
        if centre_only or side <= edge:
            axes.append([middle])
        else:
            count = math.ceil((side - edge) / (edge * (1 - overlap))) + 1
            axes.append([round(i * (side - edge) / (count - 1)) for i in range(count)])
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def as_channels(volume: np.ndarray) -> Tensor:
    """A prepared volume (D, H, W) or (C, D, H, W) as (C, D, H, W) float32."""
    x = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    return x[None] if x.dim() == 3 else x


def cut_window(volume: Tensor, start: Shape3, size: Shape3, value: Fill) -> Tensor:
    """A window (C, D, H, W) of a volume, filled with `value` (one, or one a channel) where it leaves it."""
    channels = volume.shape[0]
    fill = volume.new_tensor(value).expand(channels)
    window = fill[:, None, None, None].repeat(1, *size)
    source, target = _overlap(volume.shape[1:], start, size)
    window[:, *target] = volume[:, *source]
    return window


def _overlap(
    shape: Sequence[int], start: Shape3, size: Shape3
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a volume that a window covers, in the volume's voxels and in the window's."""
    low = [max(0, first) for first in start]
    high = [min(side, first + edge) for side, first, edge in zip(shape, start, size, strict=True)]
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    return source, target


def map_windows(
    function: Callable[[Tensor], Tensor], volume: Tensor, patch: Shape3, *, value: Fill, overlap: float = 0.5
) -> Tensor:
    """Apply a function of windows, (B, C, *patch) to (B, K, *patch), of a volume (C, D, H, W); (K, D, H, W).

    What overlaps is blended.
    """
    starts = window_starts(volume.shape[1:], patch, overlap=overlap)
    results = windows_through(function, volume, starts, patch, value)
    return blend_windows(starts, results, volume.shape[1:], patch)


def windows_through(
    function: Callable[[Tensor], Tensor],
    volume: Tensor,
    starts: Sequence[Shape3],
    patch: Shape3,
    value: Fill,
) -> Iterator[Tensor]:
    """What a function of windows (B, C, *patch) makes of each window of a volume (C, D, H, W), some at once."""
    for first in range(0, len(starts), AT_ONCE):
        some = [cut_window(volume, start, patch, value) for start in starts[first : first + AT_ONCE]]
        yield from function(torch.stack(some))


def blend_windows(
    starts: Sequence[Shape3], results: Iterable[Tensor], shape: Sequence[int], patch: Shape3
) -> Tensor:
    """Results (K, *patch) of windows over a volume, the mean of those that overlap; (K, D, H, W).

    A window counts most in its middle (a product of raised cosines), where it has seen the most around it.
    """
    total, weights, bump = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for number, (start, result) in enumerate(zip(starts, results, strict=True)):
        if not number:
            total = result.new_zeros((len(result), *shape), dtype=torch.float32)
            weights, bump = torch.zeros_like(total[0]), _bump(patch, result.device)
        source, target = _overlap(shape, start, patch)
        total[:, *source] += (bump * result.float())[:, *target]
        weights[source] += bump[target]
    return total / weights


def _bump(patch: Shape3, device: torch.device) -> Tensor:
    x, y, z = (
        torch.hann_window(edge + 2, periodic=False, device=device)[1:-1].clamp_min(1e-3) for edge in patch
    )
    return x[:, None, None] * y[None, :, None] * z
