"""Where the slices of a DICOM series lie by their own headers, and whether what a converter makes of them lies there.

Positions and directions are turned from DICOM's LPS to RAS millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from mdae.errors import ScanError

TURN = np.array([-1.0, -1.0, 1.0])
SAME_MM = 0.01  # positions that differ by less are one
UNEVEN = 0.05  # of the distance between slices, by which distances may differ
PARALLEL = 0.01  # of unit vectors, by which directions may differ
OFF_MM, OFF_VOXELS = 0.1, 0.1  # by which a converter's corners may differ
TILT_MM = 1.0  # from the first to the last slice, sideways, from which a series is tilted
SLIGHT = 1e-6  # of a voxel, which is rounding
TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
FRAMES = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
NO_ORIENTATION = "no ImageOrientationPatient (0020,0037), so nobody knows which way is left"
NO_POSITION = "no ImagePositionPatient (0020,0032), so nobody knows the order and distance of slices"
AGAIN = "export the series again, whole and from the scanner or archive"


@dataclass(frozen=True)
class SliceGrid:
    """The grid of a series' slices, one volume of it.

    Attributes:
        affine: (4, 4), from (column, row, slice) to RAS millimetres; sheared if the gantry was tilted.
        shape: columns, rows and slices.
        volumes: how many slices lie at each place.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    volumes: int

    @property
    def drift_mm(self) -> float:
        """How far the last slice lies sideways of the first."""
        step = self.affine[:3, 2]
        normal = np.cross(self.affine[:3, 0], self.affine[:3, 1])
        normal /= np.linalg.norm(normal)
        return float(np.linalg.norm(step - normal * (step @ normal)) * (self.shape[2] - 1))

    @property
    def tilt_deg(self) -> float:
        """The angle between the slices' normal and the way from one to the next."""
        return math.degrees(math.atan2(self.drift_mm, self._height_mm))

    @property
    def _height_mm(self) -> float:
        normal = np.cross(self.affine[:3, 0], self.affine[:3, 1])
        return float(abs(self.affine[:3, 2] @ normal) / np.linalg.norm(normal) * (self.shape[2] - 1))

    @property
    def tilted(self) -> bool:
        return self.drift_mm > TILT_MM


def slice_grid(slices: Sequence[Path], where: Path) -> SliceGrid | None:
    """The grid of a series by the headers of its files; None for mosaics, of which no header tells every slice.

    Raises:
        ScanError: headers without orientation or position, slices of several orientations or sizes, missing or uneven.
    """
    planes: list[tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]] = []
    for path in slices:
        found = _planes(path, where)
        if found is None:
            return None
        planes += found
    _same([np.concatenate([plane[1], [0, 0, 0]]) for plane in planes], PARALLEL, "orientations", where)
    _same([plane[2] for plane in planes], PARALLEL, "voxel sizes", where)
    if len(sizes := {plane[3] for plane in planes}) > 1:
        raise ScanError(f"slices of several sizes ({len(sizes)})", where=where, mend=AGAIN)
    across, down = planes[0][1][:3] * TURN, planes[0][1][3:] * TURN
    normal = np.cross(across, down)
    positions = np.array([plane[0] * TURN for plane in planes])
    places, volumes = _places(positions[np.argsort(positions @ normal, kind="stable")], normal, where)
    step = (places[-1] - places[0]) / (len(places) - 1)
    rows_mm, columns_mm = planes[0][2]  # between rows, between columns
    matrix = np.stack([across * columns_mm, down * rows_mm, step], axis=1)
    rows, columns = planes[0][3]
    return SliceGrid(from_matvec(matrix, places[0]), (columns, rows, len(places)), volumes)


def _planes(
    path: Path, where: Path
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]] | None:
    """Position, orientation, pixel spacing and size of a file's slices; None for a mosaic."""
    import pydicom  # here: only DICOM needs it

    tags = pydicom.dcmread(
        path, stop_before_pixels=True, force=True, specific_tags=[*TAGS, *FRAMES, "ImageType"]
    )
    if "MOSAIC" in [str(word).upper() for word in tags.get("ImageType") or ()]:
        return None
    size = int(tags.get("Rows") or 0), int(tags.get("Columns") or 0)
    frames = tags.get(FRAMES[0])
    if not frames:
        return [(*_place([tags], where), size)]
    shared = list(tags.get(FRAMES[1]) or [])
    return [(*_place([frame, *shared, tags], where), size) for frame in frames]


def _place(groups: Sequence[Any], where: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, orientation and pixel spacing of a slice, from the first of some groups of tags that has each."""
    orientation = _find(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    position = _find(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    spacing = _find(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    if orientation is None or not np.isclose(
        np.linalg.norm(np.cross(orientation[:3], orientation[3:])), 1, atol=0.05
    ):
        raise ScanError(NO_ORIENTATION, where=where, mend=AGAIN)
    if position is None:
        raise ScanError(NO_POSITION, where=where, mend=AGAIN)
    if spacing is None or not (spacing > 0).all():
        raise ScanError("no PixelSpacing (0028,0030) above 0", where=where, mend=AGAIN)
    return position, orientation, spacing


def _find(groups: Sequence[Any], sequence: str, name: str, length: int) -> np.ndarray | None:
    for group in groups:
        items = [group, *(group.get(sequence) or ())]
        for item in items:
            values = item.get(name)
            if values is not None and not isinstance(values, str) and len(values) == length:
                numbers = np.array([float(value) for value in values])
                return numbers if np.isfinite(numbers).all() else None
    return None


def _same(rows: list[np.ndarray], tolerance: float, what: str, where: Path) -> None:
    """Refuse a series whose slices differ."""
    if (off := np.abs(np.array(rows) - rows[0]).max()) > tolerance:
        raise ScanError(
            f"slices of several {what} (by {off:.2g})", where=where, mend="give each stack by itself"
        )


def _places(positions: np.ndarray, normal: np.ndarray, where: Path) -> tuple[np.ndarray, int]:
    """The different places of slices, in order, and how many slices lie at each.

    Raises:
        ScanError: they are missing or uneven.
    """
    along = positions @ normal
    first = np.flatnonzero(np.concatenate([[True], np.diff(along) > SAME_MM]))
    places, counts = positions[first], np.diff([*first, len(positions)])
    if len(places) < 2:
        raise ScanError(f"all {len(positions)} slices lie at one place", where=where, mend=AGAIN)
    gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    low, high = float(gaps.min()), float(gaps.max())
    if high - low > max(UNEVEN * float(np.median(gaps)), 2 * SAME_MM):
        raise ScanError(
            f"slices are missing or uneven, {low:.4g} to {high:.4g} mm apart", where=where, mend=AGAIN
        )
    if counts.min() != counts.max():
        raise ScanError(
            f"slices are missing or uneven, {counts.min()} to {counts.max()} at a place",
            where=where,
            mend=AGAIN,
        )
    return places, int(counts[0])


def check_volume(grid: SliceGrid, affine: np.ndarray, shape: tuple[int, ...], where: Path) -> None:
    """Whether a converter's volume has the slices' number, place and orientation.

    Raises:
        ScanError: it has not.
    """
    if sorted(shape) != sorted(grid.shape):
        raise ScanError(
            f"dcm2niix makes {shape} voxels of slices of {grid.shape}",
            where=where,
            mend="convert it by yourself",
        )
    ours, theirs = _corners(grid.affine, grid.shape), _corners(affine, shape)
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=2).min(axis=1).max()
    if apart > OFF_MM + OFF_VOXELS * np.linalg.norm(grid.affine[:3, :3], axis=0).max():
        raise ScanError(
            f"dcm2niix puts its slices {apart:.1f} mm from where their headers do",
            where=where,
            mend="convert it by yourself and look at it",
        )


def without_tilt(
    grid: SliceGrid, data: np.ndarray, affine: np.ndarray, where: Path
) -> tuple[np.ndarray, np.ndarray]:
    """A series of a tilted gantry with its slices shifted to where they lie, on a grid of right angles.

    dcm2niix stacks such slices straight; its own correction goes by the header's angle, whose sign scanners do not
    agree on. Here every slice goes where its position says, by linear interpolation within it.

    Args:
        grid: by the headers.
        data: (D, H, W), the converter's straight stack.
        affine: of its first slice, at least.
        where: to name it.

    Raises:
        ScanError: the stack does not begin where the headers say.
    """
    to_grid = _as_grid(affine, grid)
    first = np.array([data.shape[0] - 1, data.shape[1] - 1, 0])
    index = np.array(list(np.ndindex(2, 2, 1))) * first
    off = np.abs(apply_affine(affine, index) - apply_affine(grid.affine @ to_grid, index)).max()
    if tuple(data.shape) != grid.shape or off > OFF_MM:
        raise ScanError(
            f"a gantry tilted by {grid.tilt_deg:.1f} degrees, and dcm2niix puts its slices {off:.1f} mm from where "
            "their headers do",
            where=where,
            mend="take the tilt out by yourself and give NIfTI",
        )
    sheared = grid.affine @ to_grid
    normal = np.cross(sheared[:3, 0], sheared[:3, 1])
    normal /= np.linalg.norm(normal)
    step = normal * (normal @ sheared[:3, 2])
    matrix = np.stack([sheared[:3, 0], sheared[:3, 1], step], axis=1)
    drift = np.linalg.solve(matrix, sheared[:3, 2] - step) * (
        grid.shape[2] - 1
    )  # of the last slice, in voxels
    low, high = np.floor(np.minimum(drift, 0) + SLIGHT), np.ceil(np.maximum(drift, 0) - SLIGHT)
    low[2] = high[2] = 0
    upright = from_matvec(matrix, sheared[:3, 3] + matrix @ low)
    shape = tuple(int(side) for side in np.array(data.shape) + high - low)
    inverse = np.linalg.inv(sheared) @ upright
    moved = ndimage.affine_transform(data, inverse, output_shape=shape, order=1, cval=float(data.min()))
    return moved, upright


def _as_grid(affine: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """From voxels of a converter's volume to those of the grid: its axes are the grid's, perhaps reversed."""
    out = np.eye(4)
    for axis in range(3):
        if affine[:3, axis] @ grid.affine[:3, axis] < 0:
            out[axis, axis], out[axis, 3] = -1, grid.shape[axis] - 1
    return out


def _corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The centres of the eight outermost voxels."""
    return np.asarray(apply_affine(affine, np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)))
