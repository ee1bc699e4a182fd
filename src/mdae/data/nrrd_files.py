"""NRRD, with its voxels in the same file or in one beside it, into RAS millimetres."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from nibabel.affines import from_matvec

from mdae.errors import ScanError

# What turns a space to RAS+, axis by axis; a fourth axis of time says nothing of it.
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "ras": (1, 1, 1),
    "las": (-1, 1, 1),
    "lps": (-1, -1, 1),
}
UNITS_MM = {
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres", "", "???"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e3),
}
COLOURS = ("color", "vector", "complex", "matrix", "tensor", "quaternion", "gradient", "normal")


def read_nrrd(raw: bytes, path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A NRRD's voxels, series along the last axis, their affine, and what should be told of it.

    Axes of kind `none` or of length one beside the three of space go; without an origin it is 0, as ITK has it.

    Raises:
        ScanError: its header does not say which way is left, or its units are no lengths.
    """
    file = io.BytesIO(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields that are given twice
        header = nrrd.read_header(file)
    names = str(header.get("space", "")).lower().removesuffix("-time")
    if names not in SPACES:
        raise ScanError(
            f"a NRRD header with {f'the space {names!r}' if names else 'no space'}, which does not say where left is",
            where=path,
            mend="write it with `space: left-posterior-superior` or another that names directions",
        )
    directions = _directions(header, path)
    spatial = np.isfinite(directions).all(axis=1)
    signs = np.diag(SPACES[names]).astype(float) * _scales(header, path)
    origin = header.get("space origin")
    notes = (
        ()
        if origin is not None and np.isfinite(origin).all()
        else ("no origin in a NRRD header: taken as 0",)
    )
    affine = from_matvec(signs @ directions[spatial].T, np.zeros(3) if notes else signs @ np.asarray(origin))
    others = np.flatnonzero(~spatial)
    _refuse_colours(header, others, path)
    data = nrrd.read_data(header, file, str(path), index_order="F")
    data = np.moveaxis(data, others, range(3, data.ndim))
    return data.astype(np.float32), affine, notes


def _directions(header: dict[str, Any], path: Path) -> np.ndarray:
    """(axes, 3): a row an axis, NaN for those that are not of space."""
    directions = header.get("space directions")
    if directions is None:
        spacings = np.atleast_1d(np.asarray(header.get("spacings", []), dtype=np.float64))
        if np.isfinite(spacings).sum() != 3:
            raise ScanError(
                "a NRRD header without space directions", where=path, mend="write it with `space directions`"
            )
        rows = np.full((len(spacings), 3), np.nan)
        rows[np.isfinite(spacings)] = np.diag(spacings[np.isfinite(spacings)])
        return rows
    rows = np.array(
        [np.full(3, np.nan) if row is None else np.asarray(row, dtype=np.float64)[:3] for row in directions]
    )
    if np.isfinite(rows).all(axis=1).sum() != 3:
        raise ScanError(
            f"a NRRD with {int(np.isfinite(rows).all(axis=1).sum())} axes in space",
            where=path,
            mend="give a 3D volume",
        )
    return rows


def _scales(header: dict[str, Any], path: Path) -> np.ndarray:
    """Millimetres of each direction's unit, (3,)."""
    units = header.get("space units") or [""] * 3
    names = [str(unit).strip("\"' ").lower() for unit in units][:3]
    if unknown := [name for name in names if name not in UNITS_MM]:
        raise ScanError(
            f"NRRD space units of {unknown[0]!r}, which are no lengths", where=path, mend="write them in mm"
        )
    return np.array([UNITS_MM[name] for name in names])


def _refuse_colours(header: dict[str, Any], axes: np.ndarray, path: Path) -> None:
    """One component is an intensity; more of a colour or a vector are none."""
    kinds = list(header.get("kinds") or [])
    for axis in axes:
        kind = str(kinds[axis]).lower() if axis < len(kinds) else ""
        if header["sizes"][axis] > 1 and any(word in kind for word in COLOURS):
            raise ScanError(f"voxels are of kind {kind}", where=path, mend="export one intensity a voxel")
