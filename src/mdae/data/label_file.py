"""Label maps as they lie in their files: whole numbers on a scan's grid, in any format that scans have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdae.data.readers import open_image, why
from mdae.errors import ScanError

SAME_AFFINE = 1e-2


def read_label_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A label map, (D, H, W) of whole numbers, and its affine.

    Raises:
        ScanError: a file that cannot be read, or that holds no labels.
    """
    image = open_image(path)
    try:
        data = np.asarray(image.voxels)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ScanError(
            f"a mask that cannot be read ({why(error)})", where=path, mend="copy it again"
        ) from error
    if data.ndim != 3 and data.shape[3:] != (1,):
        raise ScanError(f"a mask of {data.ndim} dimensions", where=path, mend="give one volume")
    data = data.reshape(data.shape[:3])
    whole = np.rint(data)
    if not np.array_equal(whole, data):
        raise ScanError("a mask with values between whole numbers", where=path, mend="give labels")
    return whole.astype(np.int32), np.asarray(image.affine, dtype=np.float64)


def same_grid(shape: Sequence[int], affine: np.ndarray, mask: np.ndarray, mask_affine: np.ndarray) -> bool:
    """Whether a scan of this shape and affine lies on its mask's grid."""
    return tuple(shape) == mask.shape and np.allclose(affine, mask_affine, atol=SAME_AFFINE)
