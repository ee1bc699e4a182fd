"""Feature maps of a stage on a scan's own grid, and features pooled within labelled regions of a scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdae.data.native import to_native
from mdae.data.preprocess import PreparedRecord
from mdae.evaluation.configs import Pool
from mdae.evaluation.features.sliding_window import (
    AT_ONCE,
    Fill,
    as_channels,
    blend_windows,
    cut_window,
    window_starts,
    windows_through,
)
from mdae.types import Shape3, shape3

CHANNELS = 8  # of a map that are brought to the voxels at once: memory holds no more of them
OVERLAP = 0.5


class Stages(Protocol):
    """A frozen network, such as an `Encoder`: its window, and the outputs of its stages of windows (B, C, D, H, W)."""

    patch: Shape3

    def stages(self, windows: Tensor) -> list[Tensor]: ...


def native_maps(
    encoder: Stages, volume: np.ndarray, background: Fill, record: PreparedRecord, stage: int
) -> Iterator[np.ndarray]:
    """Each channel of a stage's output at every voxel of the scan's file, float32, one after the other.

    Windows overlap by half and are blended; coarse maps are brought to the voxels by trilinear interpolation. What the
    prepared scan does not hold is 0.

    Args:
        encoder: frozen.
        volume: prepared by its contract, (D, H, W) or (C, D, H, W).
        background: the value outside the head, or that of each contrast.
        record: of the (first) scan.
        stage: from 1, the finest.
    """
    x = as_channels(volume)
    starts = window_starts(x.shape[1:], encoder.patch, overlap=OVERLAP)
    coarse = list(
        windows_through(
            lambda windows: encoder.stages(windows)[stage - 1].float().cpu(),
            x,
            starts,
            encoder.patch,
            background,
        )
    )
    for first in range(0, len(coarse[0]), CHANNELS):
        fine = (
            F.interpolate(own[None, first : first + CHANNELS], size=encoder.patch, mode="trilinear")[0]
            for own in coarse
        )
        for channel in blend_windows(starts, fine, x.shape[1:], encoder.patch).numpy():
            yield to_native(channel, record).astype(np.float32, copy=False)


def embed_regions(
    encoder: Stages, volume: np.ndarray, labels: np.ndarray, background: Fill, *, pool: Pool = "mean"
) -> dict[int, np.ndarray]:
    """The features (F,), float32, of each label above 0, by label.

    Every stage's output is pooled over the voxels of the label; a coarse voxel counts by the share of it that is. The
    windows of the training patch count by how much of the label each holds.

    Args:
        encoder: frozen.
        volume: prepared values, (D, H, W) or (C, D, H, W).
        labels: (D, H, W) of whole numbers.
        background: the value outside the head, or that of each contrast.
        pool: as in `Encoder.embed_volume`.
    """
    x, marked = as_channels(volume), torch.from_numpy(labels.astype(np.int32))[None]
    numbers = [int(label) for label in np.unique(labels) if label > 0]
    sums: dict[int, Tensor] = {}
    sizes = dict.fromkeys(numbers, 0.0)
    starts = window_starts(labels.shape, encoder.patch)
    held = [cut_window(marked, start, encoder.patch, 0)[0] for start in starts]
    wanted = [index for index, own in enumerate(held) if bool((own > 0).any())]
    for some in (wanted[first : first + AT_ONCE] for first in range(0, len(wanted), AT_ONCE)):
        windows = torch.stack([cut_window(x, starts[index], encoder.patch, background) for index in some])
        stages = [stage.float().cpu() for stage in encoder.stages(windows)]
        for row, index in enumerate(some):
            for label in set(np.unique(held[index].numpy()).tolist()) & set(numbers):
                inside = (held[index] == label).float()
                size = float(inside.sum())
                features = _pool_within([stage[row] for stage in stages], inside, pool)
                sums[label] = sums.get(label, torch.zeros(())) + size * features.double()
                sizes[label] += size
    return {label: (sums[label] / sizes[label]).float().numpy() for label in numbers}


def _pool_within(stages: list[Tensor], inside: Tensor, pool: Pool) -> Tensor:
    """Means, maxima or both of maps (C, d, h, w) where a window's mask (D, H, W) is 1; (F or 2 F,)."""
    shares = [F.adaptive_avg_pool3d(inside[None], shape3(stage.shape[1:]))[0] for stage in stages]
    parts = []
    if pool in ("mean", "both"):
        parts += [(stage * own).sum((1, 2, 3)) / own.sum() for stage, own in zip(stages, shares, strict=True)]
    if pool in ("max", "both"):
        parts += [
            stage.masked_fill(own == 0, -torch.inf).amax((1, 2, 3))
            for stage, own in zip(stages, shares, strict=True)
        ]
    return torch.cat(parts)
