"""From the prepared grid back to the voxels and intensities of the source, and other volumes of the source onto it."""

from __future__ import annotations

import numpy as np
from nibabel import orientations

from mdae.data.preprocess import PreparedRecord, ras_geometry, to_ras
from mdae.data.resample import AxisMap, inside, resample

UNLABELLED = -1  # of voxels that nobody labelled


def to_native(data: np.ndarray, record: PreparedRecord, *, order: int = 1, fill: float = 0.0) -> np.ndarray:
    """A volume on the prepared grid (D, H, W) brought to the source file's own voxels; float32.

    Args:
        data: on the prepared grid.
        record: of the prepared scan.
        order: of the spline; 0 for labels and masks.
        fill: the value where the source reaches beyond the prepared volume.
    """
    orientation, _ = ras_geometry(record.source_shape, np.array(record.source_affine))
    ras_shape = [0, 0, 0]
    for axis, target in enumerate(orientation[:, 0].astype(int)):
        ras_shape[target] = record.source_shape[axis]
    x, y, z = (
        AxisMap(a.size_out, n, 1 / a.scale, -(start + a.offset) / a.scale)
        for a, n, start in zip(record.axes(), ras_shape, record.crop_start, strict=True)
    )
    out = resample(data, (x, y, z), order=order)
    covered = inside(x)[:, None, None] & inside(y)[None, :, None] & inside(z)
    out = np.where(covered, out, np.float32(fill))
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientation)
    return np.ascontiguousarray(orientations.apply_orientation(out, back))


def to_prepared(data: np.ndarray, record: PreparedRecord, *, order: int = 0) -> np.ndarray:
    """A volume on the source file's voxels, a mask say, brought to the prepared grid; float32."""
    ras, _ = to_ras(data, np.array(record.source_affine))
    box = tuple(slice(a, a + n) for a, n in zip(record.crop_start, record.crop_shape, strict=True))
    return resample(ras[box], record.axes(), order=order)


def denormalise(data: np.ndarray, record: PreparedRecord) -> np.ndarray:
    """Prepared values to the source's intensities."""
    return data * np.float32(record.std) + np.float32(record.mean)


def labels_on_grid(mask: np.ndarray, record: PreparedRecord, ignore: int | None) -> np.ndarray:
    """At each prepared voxel the label with the largest share of it, so that thick slices leave no steps."""
    values = np.unique(mask)
    best = np.full(record.shape, -1.0, dtype=np.float32)
    labels = np.zeros(record.shape, dtype=np.int16)
    for value in values.tolist():
        share = to_prepared((mask == value).astype(np.float32), record, order=1)
        larger = share > best
        best[larger] = share[larger]
        labels[larger] = UNLABELLED if value == ignore else value
    return labels
