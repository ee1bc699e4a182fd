"""What any encoder has to beat at single voxels: where one is, and how bright it is there and around.

Scans of one kind show the same part of the body in the same pose, so that the place alone tells much of an organ. A
readout that has both beside an encoder's features shows what the encoder adds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from mdae.types import Spacing

BLURS_MM = (1.0, 2.0, 4.0)  # standard deviations of Gaussians
EDGES_MM = (1.0, 2.0)
NUM_POSITION = 9
NUM_SCALES = 1 + len(BLURS_MM) + len(EDGES_MM)
REACH = 3.0  # standard deviations to which a Gaussian is computed


def position_at(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """The place in the prepared scan's box and its squares and products, (P, 9) float32.

    The box is the head's, the body's or the field of view, as the contract of preprocessing crops; its faces are at -1
    and 1.

    Args:
        shape: (D, H, W) of the prepared scan.
        points: (P, 3) in voxels.
    """
    x, y, z = ((2 * points + 1) / np.array(shape) - 1).astype(np.float32).T
    return np.stack([x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)


def position_maps(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The same at every voxel: nine maps that broadcast to (D, H, W), one at a time."""
    x, y, z = (
        ((2 * np.arange(side, dtype=np.float32) + 1) / side - 1).reshape(
            [-1 if other == axis else 1 for other in range(3)]
        )
        for axis, side in enumerate(shape)
    )
    yield from (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)


def scale_maps(volume: np.ndarray, spacing_mm: Spacing) -> Iterator[np.ndarray]:
    """The intensity, Gaussian blurs of it and the steepness of its edges, (D, H, W) each, one at a time.

    Args:
        volume: z-scores (D, H, W).
        spacing_mm: of its voxels.
    """
    yield volume
    for width in BLURS_MM:
        sigma = [width / step for step in spacing_mm]
        yield ndimage.gaussian_filter(volume, sigma, mode="nearest", truncate=REACH)
    for width in EDGES_MM:
        sigma = [width / step for step in spacing_mm]
        yield ndimage.gaussian_gradient_magnitude(volume, sigma, mode="nearest", truncate=REACH)
