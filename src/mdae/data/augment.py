"""Augmentation on the device: draw for every sample, then apply to the batch, purely; recorded draws replay exactly.

A crop is rotated and scaled about its middle by one `grid_sample`, flipped without interpolation, and its intensities
are changed. What lies beyond the wanted patch is read along (`margin`), so that no corner is made up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mdae.data.preprocess import UNKNOWN
from mdae.options import AugmentOptions
from mdae.tensors import Batch, Mask, constant
from mdae.types import Shape3, Spacing

NUMBERS = 10  # random numbers a sample: 3 flips, 3 angles, scale, gain, shift, gamma
KNOWN = 0.99  # of a voxel's weight on known voxels, from which it is known


@dataclass(frozen=True)
class Augmentation:
    """What is done to each sample of a batch.

    Attributes:
        flip: (B, 3) bool, along which axes.
        turn: (B, 3, 3), from offsets in the new volume to offsets in the old one, both in millimetres from the middle.
        gain, shift, gamma: (B,), of the intensities.
    """

    flip: Tensor
    turn: Tensor
    gain: Tensor
    shift: Tensor
    gamma: Tensor


def draw(options: AugmentOptions, generators: Sequence[torch.Generator]) -> Augmentation:
    """Draw for each sample from its own generator, on the generator's device."""
    u = torch.stack([torch.rand(NUMBERS, generator=g, device=g.device) for g in generators])
    spread = 2 * u - 1  # uniform in [-1, 1)
    angles = spread[:, 3:6] * math.radians(options.rotate_deg)
    scale = (1 + options.scale) ** spread[:, 6]
    return Augmentation(
        flip=u[:, :3] < options.flip,
        turn=_rotations(angles) / scale[:, None, None],
        gain=(1 + options.gain) ** spread[:, 7],
        shift=options.shift * spread[:, 8],
        gamma=(1 + options.gamma) ** spread[:, 9],
    )


def _rotations(angles: Tensor) -> Tensor:
    """Rotations (B, 3, 3) about the first, then the second, then the third axis, by angles (B, 3) in radians."""
    out = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        i, j = (other for other in range(3) if other != axis)
        c, s = angles[:, axis].cos(), angles[:, axis].sin()
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, i, i], turn[:, i, j], turn[:, j, i], turn[:, j, j] = c, -s, s, c
        out = _product(turn, out)
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products in full precision: `@` may be set to TF32, whose error is voxels at a volume's edge."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(dim=-2)


def margin(options: AugmentOptions, patch: Shape3, spacing_mm: Spacing) -> Shape3:
    """How many voxels beyond each side of a patch the farthest turn and smallest scale reach."""
    if not options.spatial:
        return (0, 0, 0)
    steps = torch.linspace(-1, 1, 9) * math.radians(options.rotate_deg)
    turns = _rotations(torch.tensor(list(itertools.product(steps.tolist(), repeat=3))))
    half_mm = torch.tensor([side * step / 2 for side, step in zip(patch, spacing_mm, strict=True)])
    reach_mm = (turns.abs() @ half_mm).amax(dim=0) * (1 + options.scale)
    x, y, z = (
        max(0, math.ceil(float(reach) / step - side / 2)) + 1
        for reach, step, side in zip(reach_mm, spacing_mm, patch, strict=True)
    )
    return x, y, z


def apply(
    augmentation: Augmentation,
    crops: Batch,
    known: Mask | None,
    *,
    options: AugmentOptions,
    patch: Shape3,
    spacing_mm: Spacing,
) -> tuple[Batch, Mask | None]:
    """Augment crops (B, C, D, H, W), and cut them to the patch.

    Args:
        augmentation: what to do to each.
        crops: with the margin around the patch.
        known: False on voxels that nobody knows, likewise; None if all are known.
        options: those that were drawn from; what they leave alone is not computed.
        patch: the sides wanted.
        spacing_mm: of the voxels: a rotation is one in space.
    """
    if options.spatial:
        crops, known = _turned(augmentation.turn, crops, known, patch, spacing_mm)
    if options.flip:
        for axis in range(3):
            chosen = augmentation.flip[:, axis].view(-1, 1, 1, 1, 1)
            crops = torch.where(chosen, crops.flip(2 + axis), crops)
            known = None if known is None else torch.where(chosen, known.flip(2 + axis), known)
    if options.gain or options.shift or options.gamma:
        crops = _recoloured(augmentation, crops)
        crops = crops if known is None else crops.masked_fill(~known, 0.0)
    return crops, known


def lacking(volumes: Batch) -> Tensor:
    """Which channels (B, C, 1, 1, 1) of whole volumes (B, C, D, H, W) there are none of: `UNKNOWN` everywhere."""
    return (volumes == UNKNOWN).flatten(2).all(dim=2)[:, :, None, None, None]


def _turned(
    turn: Tensor, crops: Tensor, known: Tensor | None, patch: Shape3, spacing_mm: Spacing
) -> tuple[Tensor, Tensor | None]:
    """Crops and what is known of them, turned about the middle and cut to the patch by one trilinear sampling."""
    step = constant(tuple(spacing_mm), turn.dtype, turn.device)
    half_new = constant(tuple(patch), turn.dtype, turn.device) / 2
    half_old = constant(tuple(crops.shape[2:]), turn.dtype, turn.device) / 2
    # From new to old in voxels, then in units of half a side; grid_sample counts axes from the last.
    voxels = turn * step[None, None, :] / step[None, :, None]
    grid = _places(voxels * half_new[None, None, :] / half_old[None, :, None], patch)
    stacked = crops if known is None else torch.cat([crops, known.to(crops.dtype)], dim=1)
    sampled = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if known is None:
        return sampled, None
    channels = crops.shape[1]
    sure = sampled[:, channels:] > KNOWN
    return sampled[:, :channels].masked_fill(~sure, 0.0), sure


def _places(theta: Tensor, patch: Shape3) -> Tensor:
    """Where to sample, (B, D, H, W, 3), from -1 to 1 and the last axis first.

    As `affine_grid`, but without its matrix product, which may be set to TF32.
    """
    places = torch.zeros(len(theta), *patch, 3, device=theta.device)
    for axis, side in enumerate(patch):
        along = (2 * torch.arange(side, device=theta.device) + 1) / side - 1
        along = along.view([-1 if other == axis else 1 for other in range(3)]).unsqueeze(-1)
        places += theta[:, None, None, None, :, axis] * along
    return places.flip(-1)


def _recoloured(augmentation: Augmentation, crops: Tensor) -> Tensor:
    """Gamma over the own range of each sample's contrasts, then gain about zero, the head's mean, and shift."""
    gamma, gain, shift = (
        value.view(-1, 1, 1, 1, 1) for value in (augmentation.gamma, augmentation.gain, augmentation.shift)
    )
    voxels = (2, 3, 4)
    low, high = crops.amin(voxels, keepdim=True), crops.amax(voxels, keepdim=True)
    extent = (high - low).clamp_min(1e-6)
    return (((crops - low) / extent) ** gamma * extent + low) * gain + shift
