"""Where the head is in a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mdae.data.background import Background, find_background, padding_of
from mdae.types import Shape3, shape3

COARSE_MM = 4.0  # the grid on which the head is found
FEWEST = (
    24  # blocks a side, where it has as many voxels: a specimen, an organ or a slab is smaller than a head
)
HEAD_THRESHOLD = 0.1  # of the way from the 2nd to the 98th percentile, as BET's first estimate (Smith 2002)


@dataclass(frozen=True)
class Head:
    """Where the head is, on a grid of blocks of `steps` voxels along each axis.

    Attributes:
        mask: (d, h, w) bool, of blocks; a last partial block counts as the one before.
        steps: voxels of a block.
        background: of the scan, as it was found.
    """

    mask: np.ndarray
    steps: Shape3
    background: Background = Background()

    @classmethod
    def whole(cls, data: np.ndarray) -> Head:
        """All of a scan (D, H, W) but its padding."""
        padding = padding_of(data)
        mask = np.ones((1, 1, 1), dtype=bool) if padding is None else data != padding
        return cls(mask, (1, 1, 1))

    def at(self, shape: tuple[int, ...], strides: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
        """The head in a volume of `shape`, at every `strides`-th voxel; bool."""
        out = self.mask
        for axis, (side, step, stride) in enumerate(zip(shape, self.steps, strides, strict=True)):
            index = np.minimum(np.arange(0, side, stride) // step, out.shape[axis] - 1)
            out = np.take(out, index, axis=axis)
        return out

    def box(self, shape: tuple[int, ...], spacing: np.ndarray, *, margin_mm: float, height_mm: float) -> Box:
        """What to keep of a volume in RAS: its bounding box with a margin, no more than a height from the top down.

        Args:
            shape: of the volume.
            spacing: of its voxels in mm.
            margin_mm: kept around it.
            height_mm: at most kept below its highest point, the vertex of a head.
        """
        low, high, cut = [], [], 0.0
        for axis, (side, step) in enumerate(zip(shape, self.steps, strict=True)):
            others = tuple(other for other in range(3) if other != axis)
            where = np.flatnonzero(self.mask.any(axis=others))
            first, last = int(where[0]) * step, (int(where[-1]) + 1) * step
            if int(where[-1]) + 1 == self.mask.shape[axis]:  # with the last partial block
                last = side
            if axis == 2:  # z grows upwards in RAS: from the vertex down
                lowest, extent = first, last - first
                first = max(first, last - round(min(height_mm / spacing[2], side)))
                cut = (first - lowest) / extent
            margin = round(margin_mm / spacing[axis])
            low.append(max(0, first - margin))
            high.append(min(side, last + margin))
        return Box(shape3(low), shape3(high), cut)


class Box(NamedTuple):
    """Part of a volume.

    Attributes:
        low, high: first and one past the last voxel along each axis.
        cut: the share of the anatomy's height that lies below.
    """

    low: Shape3
    high: Shape3
    cut: float = 0.0

    @property
    def shape(self) -> Shape3:
        return shape3(b - a for a, b in zip(self.low, self.high, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        return x, y, z


def find_head(data: np.ndarray, spacing: np.ndarray) -> Head:
    """The head (or the brain of a stripped scan, or a body), its holes filled.

    On a grid of about 4 mm: what differs from the background by a tenth of the robust range, or is no padding; of that
    the largest piece, closed and filled.
    """
    x, y, z = (
        max(1, min(round(COARSE_MM / s), side // FEWEST)) for s, side in zip(spacing, data.shape, strict=True)
    )
    background = find_background(data)
    mask = _blocks(data, background, (x, y, z))
    if mask.sum() > 1000:  # cuts threads to ghosts and labels
        mask = ndimage.binary_opening(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    pieces, count = ndimage.label(mask)
    if count == 0:
        return Head(mask, (x, y, z))
    mask = pieces == 1 + int(np.argmax(ndimage.sum_labels(mask, pieces, range(1, count + 1))))
    mask = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2, 2:-2]
    return Head(np.asarray(ndimage.binary_fill_holes(mask)), (x, y, z), background)


def _blocks(data: np.ndarray, background: Background, steps: Shape3) -> np.ndarray:
    """Which blocks of voxels are no background, (d, h, w) bool."""
    if background.inside and background.air is None:
        return _block_means(data != background.padding, steps) > 0.5
    if background.inside:
        data = np.where(data == background.padding, np.float32(background.air), data)
    coarse = _block_means(data, steps)
    low, high = np.percentile(coarse, [2, 98])
    if background.padding is not None and not background.inside:  # of which there may be little
        low, high = min(low, background.padding), max(high, background.padding)
    if low == high:  # a small object in a large field of view
        low, high = float(coarse.min()), float(coarse.max())
    edge = HEAD_THRESHOLD * (high - low)
    return np.asarray(coarse < high - edge if background.inverted else coarse > low + edge)


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
