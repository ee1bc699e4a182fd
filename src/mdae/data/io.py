"""Reading scans and writing NIfTI; every way in which a file can be unfit has its own line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.affines import voxel_sizes

from mdae.data.nifti import EXPORT
from mdae.data.readers import Image, open_image, why
from mdae.errors import ScanError
from mdae.files import atomic_write

MIN_SLICES = 8  # voxels along any axis; fewer are no volume, unless somebody says so
SPACING_MM = (0.1, 20.0)
ROUNDING = 1e-6  # relative, of a spacing in float32
Series = Literal["set_aside", "first"]


@dataclass(frozen=True)
class Scan:
    """A scan as it lies in its file.

    Attributes:
        data: (D, H, W) float32, in the file's own voxel order.
        affine: (4, 4) float64, from voxel indices to world millimetres.
        path: the file.
        notes: what a person should be told of how it was read, "KIND: detail" each.
        modality: MR, CT or another of DICOM's words, where the file says so; else "".
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path
    notes: tuple[str, ...] = ()
    modality: str = ""


def read_scan(path: str | Path, *, series: Series = "set_aside", min_slices: int = MIN_SLICES) -> Scan:
    """Read a volume and check that it is a usable 3D scan.

    Args:
        path: NIfTI (.nii, also as a pair .hdr and .img, plain, .gz or .bz2), .mgh, .mgz, .nrrd, .nhdr, and .mha or
            .mhd through SimpleITK.
        series: what to do with a file of several volumes: refuse it, or take the first.
        min_slices: least number of voxels along every axis.

    Raises:
        ScanError: missing, truncated, damaged, not 3D, not finite, constant, too few slices, or with an affine
            or a spacing that makes no sense.
    """
    path = Path(path)
    image = open_image(path)
    _check_header(image, path, series, min_slices)
    data = _voxels(image, path)
    _check_voxels(data, path)
    return Scan(data, np.asarray(image.affine, dtype=np.float64), path, image.notes)


def read_mask(path: Path, scan: Scan) -> np.ndarray:
    """A mask on a scan's grid, (D, H, W) bool: what is not 0.

    Raises:
        ScanError: a file that cannot be read, or on another grid.
    """
    image = open_image(path)
    if image.shape[:3] != scan.data.shape or not np.allclose(image.affine, scan.affine, atol=1e-2):
        raise ScanError(
            f"a mask of {image.shape} voxels on another grid than its scan's {scan.data.shape}",
            where=path,
            mend="resample it to the scan",
        )
    return np.asarray(_voxels(image, path) != 0)


def _voxels(image: Image, path: Path) -> np.ndarray:
    """The (first) volume, (D, H, W) float32."""
    try:
        with np.errstate(all="ignore"):  # what is not finite has its own line
            if int(np.prod(image.shape[3:])) == 1:
                return np.asarray(image.voxels, dtype=np.float32).reshape(image.shape[:3])
            return np.asarray(image.voxels[(..., *(0,) * (len(image.shape) - 3))], dtype=np.float32)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ScanError(f"truncated or damaged voxels ({why(error)})", where=path, mend=EXPORT) from error


def _check_header(image: Image, path: Path, series: Series, min_slices: int) -> None:
    shape, dtype = image.shape, image.dtype
    if dtype.fields is not None or dtype.kind == "c":
        raise ScanError(
            "voxels are colours or complex numbers", where=path, mend="export one intensity a voxel"
        )
    if len(shape) == 4 and shape[0] == 1 and min(shape[1:]) > 1:
        raise ScanError(
            f"a volume with its channel first, of shape {shape}",
            where=path,
            mend="put the channel last, or drop it",
        )
    if len(shape) < 3 or min(shape[:3]) == 1:
        raise ScanError(f"a 2D image of shape {shape}", where=path, mend="give a 3D volume")
    if int(np.prod(shape[3:])) > 1 and series == "set_aside":
        raise ScanError(
            f"a series of {int(np.prod(shape[3:]))} volumes",
            where=path,
            mend="split it, or take the first with --series first",
        )
    if len(shape) > 3 and min(shape[3:]) < 1:
        raise ScanError(f"no volume in shape {shape}", where=path, mend=EXPORT)
    if min(shape[:3]) < min_slices:
        raise ScanError(
            f"only {min(shape[:3])} slices",
            where=path,
            mend=f"give a volume of at least {min_slices}, or --min-slices",
        )
    affine = np.asarray(image.affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(
            "an affine that is not finite or singular", where=path, mend="mend its sform or qform"
        )
    spacing = voxel_sizes(affine)
    if spacing.min() < SPACING_MM[0] * (1 - ROUNDING) or spacing.max() > SPACING_MM[1] * (1 + ROUNDING):
        raise ScanError(
            f"a voxel spacing of {' x '.join(f'{s:.3g}' for s in spacing)} mm",
            where=path,
            mend="mend the spacing or the units in its header",
        )


def _check_voxels(data: np.ndarray, path: Path) -> None:
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        number = int((~np.isfinite(data)).sum())
        raise ScanError(f"{number} voxels are NaN or infinite", where=path, mend="set them to the background")
    if low == high:
        raise ScanError(f"every voxel is {low:g}", where=path, mend="export the file again")


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume (D, H, W), atomically; gzip level 1, since more saves little and costs much."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    raw = image.to_bytes()
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(igzip.compress(raw, compresslevel=1) if path.name.endswith(".gz") else raw)


def write_nifti_series(
    path: Path, volumes: Iterable[np.ndarray], shape: Sequence[int], affine: np.ndarray
) -> None:
    """Write volumes (D, H, W) as one series, atomically and one after the other, so that memory never holds them all.

    Args:
        path: .nii or .nii.gz.
        volumes: as many as `shape` says, float32.
        shape: (D, H, W, number).
        affine: of each.
    """
    header = nib.Nifti1Image(np.broadcast_to(np.float32(0), tuple(shape)), affine).header
    header.set_xyzt_units("mm")
    with atomic_write(Path(path)) as temporary:
        zipped = path.name.endswith(".gz")
        with igzip.open(temporary, "wb", compresslevel=1) if zipped else temporary.open("wb") as file:
            header.write_to(file)
            for volume in volumes:
                file.write(volume.astype(np.float32).tobytes(order="F"))
