"""NIfTI headers, read as ITK reads them where they are odd; what a person should know of that is noted.

nibabel repairs a header by guesses (a spacing of 0 becomes 1) and refuses what others read, hence only its tables of
types are used here. What is not said plainly is refused or told, never guessed in silence.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec, voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.quaternions import quat2mat

from mdae.errors import ScanError

UNITS_MM = {
    0: 1.0,
    1: 1000.0,
    2: 1.0,
    3: 0.001,
}  # xyzt_units: unknown (taken as mm), metre, millimetre, micron
SAME_SPACING = 0.01  # relative: spacings that differ by less agree
SAME_PLACE_MM = 1.0  # of the corners, by which sform and qform may differ
OVER_ONE = 1.1  # squared length of a quaternion's three numbers: a little over 1 is rounding
SINGULAR_VOLUME = 1e-18  # mm^3 of a voxel
RIGHT_ANGLE = 0.03  # cosine between axes, about 2 degrees
SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


class Geometry(NamedTuple):
    """From voxels to world millimetres (4, 4), and what should be told of it."""

    affine: np.ndarray
    notes: tuple[str, ...] = ()


def read_nifti(raw: bytes, path: Path, voxels: bytes | None = None) -> tuple[ArrayProxy, Geometry]:
    """The voxels of a NIfTI-1 or NIfTI-2, not yet read, and where they lie.

    Args:
        raw: the file, or the header of a pair.
        path: to name it.
        voxels: the other file of a pair.

    Raises:
        ScanError: no such header, or a geometry that nobody can know.
    """
    header = _header(raw, path)
    shape = tuple(int(side) for side in header.get_data_shape())
    if len(shape) < 3 or min(shape) < 1:
        raise ScanError(f"a 2D image of shape {shape}", where=path, mend="give a 3D volume")
    offset = _number(header["vox_offset"], 0)
    if voxels is None:
        offset = max(offset, header.single_vox_offset)
    slope, inter = _number(header["scl_slope"], 0), _number(header["scl_inter"], 0)
    spec = (shape, header.get_data_dtype(), int(offset), slope or 1.0, inter if slope else 0.0)
    proxy = ArrayProxy(io.BytesIO(raw if voxels is None else voxels), spec, mmap=False)
    return proxy, read_geometry(header, shape, path)


def _header(raw: bytes, path: Path) -> Any:
    """The header, unchecked but for what makes it one."""
    size = next(
        (s for s in SIZES for order in ("little", "big") if int.from_bytes(raw[:4], order) == s), None
    )  # type: ignore[arg-type]
    if size is None or len(raw) < size:
        raise ScanError("no NIfTI header: it begins with no size of one", where=path, mend=EXPORT)
    header = SIZES[size](raw[:size], check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2", b"ni1", b"ni2"):
        raise ScanError(
            "an Analyze header, which does not say which way is left",
            where=path,
            mend="convert it to NIfTI with the orientation that you know it has",
        )
    try:
        header.get_data_dtype()
        header.get_data_shape()
    except Exception as error:  # of types and numbers of axes that there are not
        raise ScanError(f"no NIfTI header that can be read: {error}", where=path, mend=EXPORT) from error
    return header


EXPORT = "copy or export the file again"


def read_geometry(header: Any, shape: tuple[int, ...], path: Path) -> Geometry:
    """Affine by the sform, else the qform, in millimetres; spacing by pixdim, as ITK and hence nnU-Net take it.

    Raises:
        ScanError: a spacing of 0, a quaternion that is no rotation, or a sform that is singular where nothing else is.
    """
    scale = UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * scale
    sform, known = _sform(header, scale, path), _all_positive(pixdim)
    if sform is None:
        if not known:
            raise ScanError(
                f"a spacing of {_times(pixdim)} mm in its header",
                where=path,
                mend="write the true spacing into its pixdim",
            )
        qform = _qform(header, pixdim, path, scale)
        if qform is None:
            return Geometry(_by_spacing(pixdim, shape), (f"{NEITHER}: {_times(pixdim)} mm",))
        return Geometry(qform, (SINGULAR,) if int(header["sform_code"]) > 0 else ())
    spacing, notes = voxel_sizes(sform), _notes(sform)
    if not known:
        return Geometry(sform, (*notes, f"{NO_SPACING}: {_times(spacing)} mm"))
    notes += _disagreement(sform, _qform(header, pixdim, path, scale), shape)
    if np.allclose(spacing, pixdim, rtol=SAME_SPACING):
        return Geometry(sform, notes)
    told = f"{CONTRADICTION}: {_times(pixdim)} and {_times(spacing)} mm"
    return Geometry(from_matvec(sform[:3, :3] / spacing * pixdim, sform[:3, 3]), (*notes, told))


NEITHER = "neither sform nor qform, axes taken to run left, forwards and up"
CONTRADICTION = "pixdim and sform contradict each other, pixdim is taken as ITK does"
DISAGREE = "sform and qform disagree, the sform is taken"
SHEARED = "axes that are not at right angles"
SINGULAR = "a sform that is singular, the qform is taken"
NO_SPACING = "no spacing in pixdim, the sform's is taken"


def _notes(sform: np.ndarray) -> tuple[str, ...]:
    axes = sform[:3, :3] / voxel_sizes(sform)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine <= RIGHT_ANGLE:
        return ()
    return (f"{SHEARED}: off by {math.degrees(math.asin(min(1.0, cosine))):.0f} degrees",)


def _disagreement(sform: np.ndarray, qform: np.ndarray | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether the two put a corner of the volume in places far apart."""
    if qform is None:
        return ()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape[:3]) - 1)
    apart = corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3]
    far = float(np.linalg.norm(apart, axis=1).max())
    return (f"{DISAGREE}: up to {far:.0f} mm apart",) if far > SAME_PLACE_MM else ()


def _sform(header: Any, scale: float, path: Path) -> np.ndarray | None:
    """The sform, None where there is none, or it is singular and there is a qform."""
    if int(header["sform_code"]) <= 0:
        return None
    rows = np.stack([header[f"srow_{axis}"] for axis in "xyz"]).astype(np.float64) * scale
    if np.isfinite(rows).all() and abs(np.linalg.det(rows[:, :3])) > SINGULAR_VOLUME:
        return np.vstack([rows, [0, 0, 0, 1]])
    if int(header["qform_code"]) > 0:
        return None
    raise ScanError("an affine that is not finite or singular", where=path, mend="mend its sform or qform")


def _qform(header: Any, pixdim: np.ndarray, path: Path, scale: float) -> np.ndarray | None:
    """The qform as nifti1_io.c has it: a quaternion a little too long is made one of length 1."""
    if int(header["qform_code"]) <= 0:
        return None
    imaginary = np.array([header[f"quatern_{name}"] for name in "bcd"], dtype=np.float64)
    square = float(imaginary @ imaginary)
    if not square <= OVER_ONE:  # or NaN
        raise ScanError(
            f"a qform that is no rotation (quaternion of length {math.sqrt(square):.3g})",
            where=path,
            mend="mend its qform, or set qform_code to 0",
        )
    rest = 1.0 - square
    quaternion = np.array([math.sqrt(rest), *imaginary]) if rest > 1e-7 else np.array([0.0, *imaginary])
    flip = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    matrix = quat2mat(quaternion / np.linalg.norm(quaternion)) * pixdim * [1.0, 1.0, flip]
    place = [float(header[f"qoffset_{axis}"]) * scale for axis in "xyz"]
    return from_matvec(matrix, place)  # type: ignore[no-any-return]


def _by_spacing(pixdim: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where nothing says more: centred on 0, the first axis to the left, as nibabel, FSL and SPM take it."""
    matrix = np.diag(pixdim * [-1.0, 1.0, 1.0])
    return from_matvec(matrix, -matrix @ ((np.array(shape[:3]) - 1) / 2))  # type: ignore[no-any-return]


def _all_positive(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (values > 0)).all())


def _number(value: Any, otherwise: float) -> float:
    """A header's number, or what stands for one that is not finite."""
    return float(value) if np.isfinite(value) else otherwise


def _times(spacing: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in spacing)
