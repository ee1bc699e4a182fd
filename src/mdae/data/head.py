"""Where the head is in a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mdae.types import Shape3

COARSE_MM = 4.0  # the grid on which the head is found
HEAD_THRESHOLD = 0.1  # of the way from the 2nd to the 98th percentile, as BET's first estimate (Smith 2002)


@dataclass(frozen=True)
class Head:
    """Where the head is, on a grid of blocks of `steps` voxels along each axis.

    Attributes:
        mask: (d, h, w) bool, of blocks; a last partial block counts as the one before.
        steps: voxels of a block.
    """

    mask: np.ndarray
    steps: Shape3

    def at(self, shape: tuple[int, ...], strides: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
        """The head in a volume of `shape`, at every `strides`-th voxel; bool."""
        out = self.mask
        for axis, (side, step, stride) in enumerate(zip(shape, self.steps, strides, strict=True)):
            index = np.minimum(np.arange(0, side, stride) // step, out.shape[axis] - 1)
            out = np.take(out, index, axis=axis)
        return out


def find_head(data: np.ndarray, spacing: np.ndarray) -> Head:
    """The head (or the brain of a stripped scan), its holes filled.

    On a grid of about 4 mm: above a tenth of the robust range, the largest piece, closed and filled.
    """
    x, y, z = (
        int(min(max(1, round(COARSE_MM / s)), side)) for s, side in zip(spacing, data.shape, strict=True)
    )
    coarse = _block_means(data, (x, y, z))
    low, high = np.percentile(coarse, [2, 98])
    if low == high:  # a small object in a large field of view
        low, high = float(coarse.min()), float(coarse.max())
    mask = coarse > low + HEAD_THRESHOLD * (high - low)
    mask = ndimage.binary_opening(mask) if mask.sum() > 1000 else mask  # cuts threads to ghosts and labels
    pieces, count = ndimage.label(mask)
    if count == 0:
        return Head(mask, (x, y, z))
    mask = pieces == 1 + int(np.argmax(ndimage.sum_labels(mask, pieces, range(1, count + 1))))
    mask = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2, 2:-2]
    return Head(np.asarray(ndimage.binary_fill_holes(mask)), (x, y, z))


def _block_means(data: np.ndarray, steps: Shape3) -> np.ndarray:
    """Means over blocks of voxels; a last partial block is left out."""
    out = data
    for axis in sorted(
        range(3), key=lambda axis: -abs(data.strides[axis])
    ):  # first where runs in memory are long
        step = steps[axis]
        size = out.shape[axis] // step
        cut = out[(slice(None),) * axis + (slice(size * step),)]
        shape = (*cut.shape[:axis], size, step, *cut.shape[axis + 1 :])
        out = cut.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return out
