"""Resampling of volumes as one matrix product an axis: spline interpolation is linear and separable.

A matrix is spline interpolation applied to the identity, so each product equals scipy's result along that axis,
at the speed of a matrix multiplication.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

ROWS = 24  # of a resampling matrix at a time
NOTHING = 1e-9  # a spline's weight that no float32 notices
FWHM_PER_SIGMA = 2.3548  # of a Gaussian


class AxisMap(NamedTuple):
    """Where the samples of one axis are taken: output voxel j lies at input voxel `scale * j + offset`."""

    size_in: int
    size_out: int
    scale: float
    offset: float


@lru_cache(maxsize=64)
def axis_matrix(axis: AxisMap, order: int) -> np.ndarray:
    """The matrix (size_out, size_in), float32, that samples one axis by splines of `order`.

    Beyond its ends the axis continues with its last value. Where voxels get wider (scale > 1) and order is 1 or more,
    the axis is first smoothed by a Gaussian that takes a voxel's width from the old to the new one, so that fine
    structure does not fold into coarse. Thick slices (scale < 1) are interpolated, never sharpened.
    """
    matrix = np.eye(axis.size_in)
    if axis.scale > 1.0 and order > 0:
        sigma = (axis.scale**2 - 1) ** 0.5 / FWHM_PER_SIGMA
        matrix = ndimage.gaussian_filter1d(matrix, sigma, axis=0, mode="nearest")
    matrix = ndimage.affine_transform(
        matrix,
        [axis.scale, 1.0],
        [axis.offset, 0.0],
        output_shape=(axis.size_out, axis.size_in),
        order=order,
        mode="nearest",
    )
    return np.asarray(matrix, dtype=np.float32)


def resample(data: np.ndarray, axes: tuple[AxisMap, AxisMap, AxisMap], *, order: int = 3) -> np.ndarray:
    """Sample a volume (D, H, W) along its three axes; float32, laid out in memory as the volume is.

    Args:
        data: the volume; not changed.
        axes: one map an axis.
        order: 0 (nearest), 1 (linear) or 3 (cubic spline).
    """
    out = np.asarray(data, dtype=np.float32)
    order_in_memory = sorted(
        range(3), key=lambda axis: -abs(out.strides[axis])
    )  # slowest first: no large transpose
    out = np.ascontiguousarray(out.transpose(order_in_memory))
    places = [axes[axis] for axis in order_in_memory]
    by_growth = sorted(range(3), key=lambda axis: places[axis].size_out / places[axis].size_in)
    for axis in by_growth:  # the axis that shrinks most first: less work for the others
        place = places[axis]
        if place.size_in == place.size_out and place.scale == 1.0 and place.offset == 0.0:
            continue
        out = _along(axis, axis_matrix(place, order), out)
    return out.transpose(np.argsort(order_in_memory))


def _along(axis: int, matrix: np.ndarray, data: np.ndarray) -> np.ndarray:
    """A matrix applied along one axis of a contiguous volume; contiguous, and nothing is copied.

    A spline reaches only so far, so the matrix is a band: a few rows at a time need a few columns, which is a third of
    the arithmetic.
    """
    shape = (*data.shape[:axis], len(matrix), *data.shape[axis + 1 :])
    out = np.empty(shape, dtype=np.float32)
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > NOTHING)
        low, high, end = used[0], used[-1] + 1, start + len(rows)
        rows = rows[:, low:high]
        if axis == 0:
            np.matmul(rows, _flat(data[low:high]), out=_flat(out[start:end]))
        elif axis == 1:
            np.matmul(rows, data[:, low:high], out=out[:, start:end])
        else:
            np.matmul(
                data.reshape(-1, data.shape[2])[:, low:high],
                rows.T,
                out=out.reshape(-1, shape[2])[:, start:end],
            )
    return out


def _flat(volume: np.ndarray) -> np.ndarray:
    """All but the first axis as one, without a copy."""
    return volume.reshape(len(volume), -1)


def inside(axis: AxisMap) -> np.ndarray:
    """Which samples of an axis lie within the input, its outer voxels' outer halves included; (size_out,) bool."""
    position = axis.scale * np.arange(axis.size_out) + axis.offset
    return (position >= -0.5) & (position <= axis.size_in - 0.5)
