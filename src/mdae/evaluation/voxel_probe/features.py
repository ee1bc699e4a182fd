"""What a frozen encoder says of single voxels: every stage's map at their place, and linear functions of it.

A map of a coarse stage is brought to the voxels by trilinear interpolation. A linear readout commutes with that, and
with the blending of windows: whole scans are read out on the coarse maps, and one number a class is interpolated
instead of hundreds of features.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdae.evaluation.features.maps import Stages
from mdae.evaluation.features.sliding_window import (
    AT_ONCE,
    Fill,
    as_channels,
    cut_window,
    map_windows,
    window_starts,
)
from mdae.types import Shape3


class MapSource(Stages, Protocol):
    """A frozen network whose maps are read.

    Attributes:
        device: where it computes, and where its maps are.
        in_channels: contrasts that it sees at once.
        widths: channels of each map.
    """

    device: torch.device

    @property
    def in_channels(self) -> int: ...

    @property
    def widths(self) -> tuple[int, ...]: ...


@torch.inference_mode()
def features_at(encoder: MapSource, volume: np.ndarray, background: Fill, points: np.ndarray) -> np.ndarray:
    """The features (P, F), float32, at points of a prepared volume; each is seen in the window whose middle is nearest.

    Args:
        encoder: frozen.
        volume: z-scores (D, H, W), or (C, D, H, W) for an encoder of several contrasts.
        background: their value outside the head, or that of each contrast.
        points: (P, 3) in voxels of the volume, between them too.
    """
    x, patch = as_channels(volume), encoder.patch
    starts = window_starts(x.shape[1:], patch)
    middles = np.array(starts) + (np.array(patch) - 1) / 2
    from_middle = np.abs(points[:, None] - middles) / np.array(patch)  # in windows, whose sides may differ
    window_of = from_middle.max(axis=2).argmin(axis=1)
    features = np.zeros((len(points), sum(encoder.widths)), dtype=np.float32)
    used = np.unique(window_of)
    for some in np.array_split(used, -(-len(used) // AT_ONCE)):
        windows = torch.stack([cut_window(x, starts[index], patch, background) for index in some])
        stages = encoder.stages(windows)
        for row, index in enumerate(some):
            own = np.flatnonzero(window_of == index)
            local = torch.from_numpy(points[own] - np.array(starts[index])).to(encoder.device)
            read = [_at(stage[row : row + 1], local, patch) for stage in stages]
            features[own] = torch.cat(read).T.cpu().numpy()
    return features


def _at(stage: Tensor, points: Tensor, patch: Shape3) -> Tensor:
    """A stage (1, C, d, h, w) of a window at points (P, 3) of its voxels: (C, P), float32."""
    sides = torch.tensor(patch, device=points.device)
    places = (2 * points + 1) / sides - 1  # -1 and 1 are the outer faces of the window
    grid = places.flip(1).float()[None, None, None]  # (1, 1, 1, P, 3), the last axis first
    return F.grid_sample(stage.float(), grid, padding_mode="border", align_corners=False)[0, :, 0, 0]


def read_out(encoder: MapSource, volume: np.ndarray, background: Fill, weights: np.ndarray) -> np.ndarray:
    """Linear functions of the features at every voxel of a prepared volume: (K, D, H, W), float32.

    Args:
        encoder, volume, background: as above.
        weights: (K, F).
    """
    kernels = torch.from_numpy(weights.astype(np.float32)).to(encoder.device)
    parts = torch.split(kernels, list(encoder.widths), dim=1)

    def of_windows(windows: Tensor) -> Tensor:
        read = [
            F.interpolate(
                torch.einsum("kc,bcdhw->bkdhw", part, stage.float()), size=encoder.patch, mode="trilinear"
            )
            for part, stage in zip(parts, encoder.stages(windows), strict=True)
        ]
        return torch.stack(read).sum(dim=0).cpu()

    with torch.inference_mode():
        return map_windows(
            of_windows, as_channels(volume), encoder.patch, value=background, overlap=0.0
        ).numpy()
