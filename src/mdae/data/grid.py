"""A scan on the grid of another: contrasts of one session as channels of one volume."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from nibabel.affines import from_matvec, voxel_sizes
from scipy import ndimage

from mdae.data.resample import AxisMap, inside, resample
from mdae.types import Shape3

STRAIGHT = 0.05  # voxels: axes that part by less over a whole volume are parallel


class Grid(NamedTuple):
    """Where voxels lie: their number along x, y, z, and the affine (4, 4) to world millimetres."""

    shape: Shape3
    affine: np.ndarray

    def axes_in(self, affine: np.ndarray, shape: Shape3) -> tuple[AxisMap, AxisMap, AxisMap] | None:
        """Where its voxels lie in a volume of another affine, axis by axis; None if it is turned against that."""
        between = np.linalg.inv(affine) @ self.affine
        turned = np.abs(between[:3, :3] - np.diag(between.diagonal()[:3])) @ np.array(self.shape)
        if turned.max() > STRAIGHT or (between.diagonal()[:3] <= 0).any():
            return None
        x, y, z = (
            AxisMap(shape[axis], self.shape[axis], float(between[axis, axis]), float(between[axis, 3]))
            for axis in range(3)
        )
        return x, y, z


def on_grid(data: np.ndarray, affine: np.ndarray, grid: Grid, *, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample a volume on a grid.

    Args:
        data: (D, H, W) in RAS.
        affine: of its voxels.
        grid: wanted. If it is turned against the volume, that is first brought to voxels of the grid's width.
        order: of the spline.

    Returns:
        The values, float32, and which of them the volume reaches, bool.
    """
    shape = (data.shape[0], data.shape[1], data.shape[2])
    if (axes := grid.axes_in(affine, shape)) is not None:
        x, y, z = (inside(axis) for axis in axes)
        return resample(data, axes, order=order), x[:, None, None] & y[None, :, None] & z
    scale = voxel_sizes(grid.affine) / voxel_sizes(affine)
    finer = [
        AxisMap(n, max(1, round(n / s)), float(s), float((s - 1) / 2))
        for n, s in zip(shape, scale, strict=True)
    ]
    data = resample(data, (finer[0], finer[1], finer[2]), order=order)
    affine = affine @ from_matvec(np.diag(scale), [axis.offset for axis in finer])
    between = np.linalg.inv(affine) @ grid.affine
    turned = {"matrix": between[:3, :3], "offset": between[:3, 3], "output_shape": grid.shape}
    values = ndimage.affine_transform(data, **turned, order=order, mode="nearest")
    covered = ndimage.affine_transform(np.ones(data.shape, np.uint8), **turned, order=0, mode="grid-constant")
    return np.asarray(values, dtype=np.float32), covered > 0
