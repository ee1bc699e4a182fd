"""Reading scans (NIfTI, MGH, NRRD) and writing NIfTI; every way in which a file can be unfit has its own line."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import nrrd
import numpy as np
from isal import igzip
from isal.isal_zlib import IsalError
from nibabel.affines import voxel_sizes

from mdae.errors import ScanError
from mdae.files import atomic_write

MIN_SLICES = 8  # voxels along any axis; fewer are no volume, unless somebody says so
SPACING_MM = (0.1, 20.0)
Series = Literal["set_aside", "first"]


@dataclass(frozen=True)
class Scan:
    """A scan as it lies in its file.

    Attributes:
        data: (D, H, W) float32, in the file's own voxel order.
        affine: (4, 4) float64, from voxel indices to world millimetres.
        path: the file.
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path


def read_scan(path: str | Path, *, series: Series = "set_aside", min_slices: int = MIN_SLICES) -> Scan:
    """Read a volume and check that it is a usable 3D scan.

    Args:
        path: .nii, .nii.gz, .mgh, .mgz or .nrrd.
        series: what to do with a file of several volumes: refuse it, or take the first.
        min_slices: least number of voxels along every axis.

    Raises:
        ScanError: missing, truncated, damaged, not 3D, not finite, constant, too few slices, or with an affine
            or a spacing that makes no sense.
    """
    path = Path(path)
    image = _parse(_read_bytes(path), path)
    _check_header(image, path, series, min_slices)
    data = _voxels(image, path)
    _check_voxels(data, path)
    return Scan(data, np.asarray(image.affine, dtype=np.float64), path)


def read_mask(path: Path, scan: Scan) -> np.ndarray:
    """A mask on a scan's grid, (D, H, W) bool: what is not 0.

    Raises:
        ScanError: a file that cannot be read, or on another grid.
    """
    image = _parse(_read_bytes(path), path)
    if image.shape[:3] != scan.data.shape or not np.allclose(image.affine, scan.affine, atol=1e-2):
        raise ScanError(
            f"a mask of {image.shape} voxels on another grid than its scan's {scan.data.shape}",
            where=path,
            mend="resample it to the scan",
        )
    return np.asarray(_voxels(image, path) != 0)


def _voxels(image: Any, path: Path) -> np.ndarray:
    """The (first) volume, (D, H, W) float32."""
    try:
        if int(np.prod(image.shape[3:])) == 1:
            return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged").reshape(image.shape[:3]))
        return np.asarray(image.dataobj[(..., *(0,) * (len(image.shape) - 3))], dtype=np.float32)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ScanError(f"truncated or damaged voxels ({error})", where=path, mend=_AGAIN) from error


_AGAIN = "copy or export the file again"


def _read_bytes(path: Path) -> bytes:
    """The uncompressed bytes; igzip is about twice as fast as zlib."""
    try:
        raw = path.read_bytes()
        return igzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, IsalError, zlib.error, gzip.BadGzipFile, struct.error) as error:  # type: ignore[misc]
        raise ScanError(f"truncated or damaged gzip ({error})", where=path, mend=_AGAIN) from error
    except OSError as error:
        raise ScanError(f"cannot be read ({error.strerror or error})", where=path, mend="check it") from error


def _parse(raw: bytes, path: Path) -> Any:
    """An image with shape, affine and data type, its voxels not yet read."""
    if not raw:
        raise ScanError("an empty file", where=path, mend=_AGAIN)
    suffix = path.suffix.lower()
    try:
        if suffix == ".nrrd":
            return _parse_nrrd(raw)
        if suffix in (".mgh", ".mgz"):
            return nib.MGHImage.from_bytes(raw)
        return _nifti_kind(raw).from_bytes(raw)
    except Exception as error:  # the readers raise nearly anything on damaged headers
        kind = {".nrrd": "NRRD", ".mgh": "MGH", ".mgz": "MGH"}.get(suffix, "NIfTI")
        reason = f"no {kind} header that can be read ({type(error).__name__})"
        raise ScanError(reason, where=path, mend=_AGAIN) from error


def _nifti_kind(raw: bytes) -> type[nib.Nifti1Image]:
    """NIfTI-1 or NIfTI-2, by the size that the header states, in either byte order."""
    if len(raw) > 4 and 540 in (struct.unpack("<i", raw[:4])[0], struct.unpack(">i", raw[:4])[0]):
        return nib.Nifti2Image  # type: ignore[no-any-return]
    return nib.Nifti1Image  # type: ignore[no-any-return]


# What turns a NRRD space to RAS+ millimetres, axis by axis.
NRRD_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "ras": (1, 1, 1),
    "las": (-1, 1, 1),
    "lps": (-1, -1, 1),
}


def _parse_nrrd(raw: bytes) -> nib.Nifti1Image:
    """A NRRD with its voxels attached; only with a space that says which way is left."""
    file = io.BytesIO(raw)
    header = nrrd.read_header(file)
    data = nrrd.read_data(header, file, index_order="F")
    signs = np.diag(NRRD_SPACES[str(header["space"]).lower()])
    affine = np.eye(4)
    affine[:3, :3] = signs @ np.asarray(header["space directions"], dtype=np.float64).T
    affine[:3, 3] = signs @ np.asarray(header["space origin"], dtype=np.float64)
    return nib.Nifti1Image(data.astype(np.float32), affine)


def _check_header(image: Any, path: Path, series: Series, min_slices: int) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise ScanError(
            "voxels are colours or complex numbers", where=path, mend="export one intensity a voxel"
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
        raise ScanError(f"no volume in shape {shape}", where=path, mend=_AGAIN)
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
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        raise ScanError(
            f"a voxel spacing of {' x '.join(f'{s:.3g}' for s in spacing)} mm",
            where=path,
            mend="mend its header: spacing is expected in millimetres",
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
