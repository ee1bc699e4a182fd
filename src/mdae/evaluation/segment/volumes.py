"""Prepared scans with their masks on one grid, and the way back to the scan's own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from mdae.data.catalogue import ScanEntry
from mdae.data.label_file import same_grid
from mdae.data.native import UNLABELLED as UNLABELLED
from mdae.data.native import labels_on_grid, to_native
from mdae.data.preprocess import PreparedRecord, PreparedScan
from mdae.data.resample import AxisMap, inside, resample
from mdae.errors import ScanError
from mdae.evaluation.features.session import PreparedSession
from mdae.types import Shape3, Spacing, shape3

ML = 1000.0  # cubic millimetres


@dataclass(frozen=True)
class Volume:
    """What a segmenter sees of a subject.

    Attributes:
        data: z-scores (C, D, H, W), float32, every contrast on the grid of the first.
        background: (C,) the value of each outside of what was scanned.
        spacing_mm: of the voxels.
    """

    data: np.ndarray
    background: tuple[float, ...]
    spacing_mm: Spacing

    @property
    def shape(self) -> Shape3:
        """The grid's sides."""
        return shape3(self.data.shape[1:])


@dataclass(frozen=True)
class LabelledVolume:
    """A subject to learn from.

    Attributes:
        subject: whose it is; several volumes of one subject are never parted.
        volume: of its scans.
        labels: (D, H, W) of the classes' numbers, 0 for background, `UNLABELLED` where nobody knows.
    """

    subject: str
    volume: Volume
    labels: np.ndarray


def volume_of(scans: PreparedScan | Sequence[PreparedScan]) -> Volume:
    """Prepared contrasts of a subject, the others brought to the first one's grid; or a session, which has all."""
    listed = [scans] if isinstance(scans, PreparedScan) else list(scans)
    first = listed[0]
    if isinstance(first, PreparedSession):
        data, background = first.data, first.background
    else:
        data = np.stack([first.data, *(_on_grid(scan, first) for scan in listed[1:])])
        background = tuple(scan.record.background for scan in listed)
    x, y, z = (float(side) for side in voxel_sizes(first.affine))
    return Volume(np.ascontiguousarray(data, dtype=np.float32), background, (x, y, z))


def only(own: LabelledVolume, contrasts: tuple[int, ...]) -> LabelledVolume:
    """The same subject with some of its contrasts."""
    volume = own.volume
    some = Volume(
        volume.data[list(contrasts)],
        tuple(volume.background[index] for index in contrasts),
        volume.spacing_mm,
    )
    return LabelledVolume(own.subject, some, own.labels)


def _on_grid(scan: PreparedScan, other: PreparedScan) -> np.ndarray:
    """A scan on another's grid; both were cut from voxels of one frame, so that the axes are parallel."""
    if scan.data.shape == other.data.shape and np.allclose(scan.affine, other.affine, atol=1e-3):
        return scan.data
    there = np.linalg.inv(scan.affine) @ other.affine
    x, y, z = (
        AxisMap(n, m, float(there[axis, axis]), float(there[axis, 3]))
        for axis, (n, m) in enumerate(zip(scan.data.shape, other.data.shape, strict=True))
    )
    moved = resample(scan.data, (x, y, z), order=1)
    held = inside(x)[:, None, None] & inside(y)[None, :, None] & inside(z)
    return np.where(held, moved, np.float32(scan.record.background))


def on_mask(scan: PreparedScan, entry: ScanEntry, mask: np.ndarray, affine: np.ndarray) -> PreparedScan:
    """The scan with a record that leads to the mask's voxels: of a session, that of a contrast which lies on them.

    Args:
        scan: prepared from the entry.
        entry: for errors.
        mask: (D, H, W), as it lies in its file.
        affine: its.

    Raises:
        ScanError: it lies on another grid than the mask.
    """
    records = scan.records if isinstance(scan, PreparedSession) else (scan.record,)
    for record in records:
        if record is not None and same_grid(
            record.source_shape, np.array(record.source_affine), mask, affine
        ):
            return replace(scan, record=replace(record, content=scan.record.content, notes=scan.record.notes))
    raise ScanError(
        f"{entry.contrast} on another grid than the mask", where=entry.path, mend="resample one to the other"
    )


def labelled(
    subject: str,
    scans: PreparedScan | Sequence[PreparedScan],
    mask: np.ndarray,
    *,
    ignore: int | None = None,
) -> LabelledVolume:
    """A subject to learn from, by its scans and the mask that lies on their files' voxels.

    Args:
        subject: whose.
        scans: prepared.
        mask: (D, H, W) of the classes' numbers, on the voxels of the first scan's file.
        ignore: the mask's value of voxels that nobody labelled.
    """
    first = scans if isinstance(scans, PreparedScan) else scans[0]
    return LabelledVolume(subject, volume_of(scans), labels_on_grid(mask, first.record, ignore))


def native_probabilities(probabilities: np.ndarray, record: PreparedRecord) -> np.ndarray:
    """Probabilities (K, D, H, W) on the voxels of the scan's file; what the prepared scan does not hold is background.

    Args:
        probabilities: (K, D, H, W) on the prepared grid, the background first.
        record: of the scan, the first contrast's if there are several.
    """
    fills = [1.0] + [0.0] * (len(probabilities) - 1)
    return np.stack(
        [to_native(one, record, fill=fill) for one, fill in zip(probabilities, fills, strict=True)]
    )


def volumes_ml(mask: np.ndarray, affine: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The volume of each class but the background, in millilitres, by name.

    Args:
        mask: (D, H, W) of the classes' numbers.
        affine: its.
        names: of the numbers from 0.
    """
    each = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / ML
    return {name: float((mask == number).sum() * each) for number, name in enumerate(names) if number}


def components(mask: np.ndarray, affine: np.ndarray, names: Sequence[str]) -> list[dict[str, object]]:
    """The connected parts (by faces, edges and corners) of each class but the background, the largest first.

    Returns:
        A row a part: `label`, `volume_ml`, and the world millimetres `x_mm`, `y_mm`, `z_mm` of its middle.
    """
    each = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / ML
    rows: list[dict[str, object]] = []
    for number, name in enumerate(names):
        if not number or not (mask == number).any():
            continue
        parts, count = ndimage.label(mask == number, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        middles = apply_affine(affine, ndimage.center_of_mass(parts > 0, parts, range(1, count + 1)))
        for part in np.argsort(-sizes, kind="stable"):
            x, y, z = (round(float(place), 2) for place in middles[part])
            rows.append(
                {"label": name, "volume_ml": float(sizes[part] * each), "x_mm": x, "y_mm": y, "z_mm": z}
            )
    return rows


def largest_parts(mask: np.ndarray) -> np.ndarray:
    """The mask with the largest connected part of each label alone; the rest becomes background."""
    kept = np.zeros_like(mask)
    for value in np.unique(mask[mask > 0]):
        parts, count = ndimage.label(mask == value, structure=np.ones((3, 3, 3)))
        if count:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept[parts == sizes.argmax()] = value
    return kept
