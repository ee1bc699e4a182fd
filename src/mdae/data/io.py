"""Reading and writing single scans as NIfTI; every way in which a file can be unfit has its own line."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.affines import voxel_sizes

from mdae.errors import ScanError
from mdae.files import atomic_write

SUFFIXES = (".nii.gz", ".nii")
MIN_SIDE = 8  # voxels; fewer slices are no volume
SPACING_MM = (0.1, 20.0)


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


def is_scan(path: Path) -> bool:
    """Whether a file's name is that of a NIfTI volume."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def scan_stem(path: Path) -> str:
    """A scan's file name without its suffixes."""
    lower = path.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def read_scan(path: str | Path) -> Scan:
    """Read a NIfTI volume and check that it is a usable 3D scan.

    Raises:
        ScanError: missing, truncated, damaged, not 3D, not finite, constant, too few slices, or with an affine
            or a spacing that makes no sense.
    """
    path = Path(path)
    image = _parse(_read_bytes(path), path)
    _check_header(image, path)
    try:
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise ScanError(f"truncated or damaged voxels ({error})", where=path, mend=_AGAIN) from error
    data = data.reshape(data.shape[:3])
    _check_voxels(data, path)
    return Scan(data, np.asarray(image.affine, dtype=np.float64), path)


_AGAIN = "copy or export the file again"


def _read_bytes(path: Path) -> bytes:
    """The uncompressed bytes; igzip is about twice as fast as zlib."""
    try:
        raw = path.read_bytes()
        return igzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise ScanError(f"truncated or damaged gzip ({error})", where=path, mend=_AGAIN) from error
    except OSError as error:
        raise ScanError(f"cannot be read ({error.strerror or error})", where=path, mend="check it") from error


def _parse(raw: bytes, path: Path) -> nib.Nifti1Image:
    """A NIfTI-1 or NIfTI-2 image from its bytes."""
    if not raw:
        raise ScanError("an empty file", where=path, mend=_AGAIN)
    kind = nib.Nifti1Image
    if len(raw) > 4 and 540 in (struct.unpack("<i", raw[:4])[0], struct.unpack(">i", raw[:4])[0]):
        kind = nib.Nifti2Image
    try:
        return kind.from_bytes(raw)
    except Exception as error:  # nibabel raises nearly anything on damaged headers
        raise ScanError(
            f"no NIfTI header that can be read ({type(error).__name__})", where=path, mend=_AGAIN
        ) from error


def _check_header(image: nib.Nifti1Image, path: Path) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise ScanError(
            "voxels are colours or complex numbers", where=path, mend="export one intensity a voxel"
        )
    if len(shape) < 3 or min(shape[:3]) == 1:
        raise ScanError(f"a 2D image of shape {shape}", where=path, mend="give a 3D volume")
    if int(np.prod(shape[3:])) > 1:
        raise ScanError(
            f"a series of {int(np.prod(shape[3:]))} volumes", where=path, mend="split it and give one volume"
        )
    if min(shape[:3]) < MIN_SIDE:
        raise ScanError(
            f"only {min(shape[:3])} slices", where=path, mend=f"give a volume of at least {MIN_SIDE}"
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
