"""What any encoder has to beat at single voxels: where one is, and how bright it is there and around.

Scans of one kind show the same part of the body in the same pose, so that the place alone tells much of an organ. A
readout that has both beside an encoder's features shows what the encoder adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from mdae.types import Spacing

BLURS_MM = (1.0, 2.0, 4.0)  # standard deviations of Gaussians
EDGES_MM = (1.0, 2.0)
# of x, y and z, whose product is a term of a polynomial of the third degree: x, y, z, xx, xy and so on
POWERS = sorted(
    (p for p in itertools.product(range(4), repeat=3) if 1 <= sum(p) <= 3),
    key=lambda p: (sum(p), *(-power for power in p)),
)
NUM_POSITION = len(POWERS)
NUM_ALONE = 1 + len(BLURS_MM) + len(EDGES_MM)  # intensities without their products with the place
NUM_SCALES = 4 * NUM_ALONE
REACH = 3.0  # standard deviations to which a Gaussian is computed


def position_at(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """The place in the prepared scan's box and its powers and products up to the third, (P, 19) float32.

    The box is the head's, the body's or the field of view, as the contract of preprocessing crops; its faces are at -1
    and 1.

    Args:
        shape: (D, H, W) of the prepared scan.
        points: (P, 3) in voxels.
    """
    x, y, z = ((2 * points + 1) / np.array(shape) - 1).astype(np.float32).T
    return np.stack([x**a * y**b * z**c for a, b, c in POWERS], axis=1)


def position_maps(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The same at every voxel: maps that broadcast to (D, H, W), one at a time."""
    x, y, z = _axes(shape)
    yield from (x**a * y**b * z**c for a, b, c in POWERS)


def _axes(shape: tuple[int, ...]) -> list[np.ndarray]:
    """The place along each axis, from -1 to 1, as maps that broadcast."""
    return [
        ((2 * np.arange(side, dtype=np.float32) + 1) / side - 1).reshape(
            [-1 if other == axis else 1 for other in range(3)]
        )
        for axis, side in enumerate(shape)
    ]


def scale_maps(volume: np.ndarray, spacing_mm: Spacing, *, by_place: bool = True) -> Iterator[np.ndarray]:
    """The intensity, Gaussian blurs of it and the steepness of its edges, (D, H, W) each, one at a time.

    After each come its products with the place along each axis: what is bright here may be another thing than what is
    bright there.

    Args:
        volume: z-scores (D, H, W).
        spacing_mm: of its voxels.
        by_place: whether to multiply by the place; a quarter of the maps is left without.
    """
    for own in _scales(volume, spacing_mm):
        yield own
        if by_place:
            yield from (own * place for place in _axes(volume.shape))


def _scales(volume: np.ndarray, spacing_mm: Spacing) -> Iterator[np.ndarray]:
    yield volume
    for width in BLURS_MM:
        sigma = [width / step for step in spacing_mm]
        yield ndimage.gaussian_filter(volume, sigma, mode="nearest", truncate=REACH)
    for width in EDGES_MM:
        sigma = [width / step for step in spacing_mm]
        yield ndimage.gaussian_gradient_magnitude(volume, sigma, mode="nearest", truncate=REACH)
