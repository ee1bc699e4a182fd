"""Scans for third-party networks: read as their code reads them, and put on record as our own are.

Others do not turn a scan before they show it to their network: it sees the axes as they lie in the file. A prepared
scan is RAS for the sake of its record, so `as_in_file` turns it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel import orientations
from nibabel.affines import from_matvec, voxel_sizes

from mdae.data.catalogue import ScanEntry
from mdae.data.dicom import read_series
from mdae.data.io import Scan, read_scan
from mdae.data.preprocess import PreparedRecord, PreparedScan, Preprocessing, content_hash, to_ras
from mdae.data.workers import prepare_entry
from mdae.types import Shape3, Spacing, shape3


@dataclass(frozen=True)
class RawScan:
    """A scan turned to RAS and otherwise as it is.

    Attributes:
        scan: as read.
        data: (D, H, W) float32, in RAS.
        affine: from the voxels of `data` to world millimetres.
    """

    scan: Scan
    data: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> Spacing:
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)


def read_raw(entry: ScanEntry) -> RawScan:
    """Read a scan and nothing else: masks of anatomy or of defacing are our own affair.

    Raises:
        ScanError: an unfit one.
    """
    scan = read_series(entry) if entry.slices else read_scan(entry.path)
    data, affine = to_ras(scan.data, scan.affine)
    return RawScan(scan, data, affine)


def recorded(
    raw: RawScan,
    data: np.ndarray,
    scale: tuple[float, ...],
    *,
    mean: float,
    std: float,
    background: float,
    start: tuple[int, ...] = (0, 0, 0),
    crop_shape: tuple[int, ...] | None = None,
) -> PreparedScan:
    """A volume with the record of where its voxels lie in the scan.

    Args:
        raw: what it was made of.
        data: (D, H, W) in RAS.
        scale: the width of its voxels in those of the scan, along each axis; both grids have one centre.
        mean, std: a value times std plus mean is the intensity.
        background: the value outside of the head.
        start, crop_shape: the box of the scan that it covers; all of it if not given.
    """
    box = crop_shape or raw.data.shape
    offset = [(n - 1) / 2 - s * (m - 1) / 2 for n, m, s in zip(box, data.shape, scale, strict=True)]
    affine = raw.affine @ from_matvec(np.diag(scale), np.add(start, offset))
    values = raw.data[tuple(slice(a, a + n) for a, n in zip(start, box, strict=True))]
    record = PreparedRecord(
        source=str(raw.scan.path),
        content=content_hash(raw.scan.data),
        source_shape=shape3(raw.scan.data.shape),
        source_affine=raw.scan.affine.tolist(),
        crop_start=shape3(start),
        crop_shape=shape3(box),
        shape=shape3(data.shape),
        affine=affine.tolist(),
        mean=mean,
        std=std,
        foreground=float(np.count_nonzero(values) / values.size),
        background=background,
    )
    return PreparedScan(np.ascontiguousarray(data, dtype=np.float32), affine, record)


def prepare_by(entry: ScanEntry, contract: Preprocessing, *, unknown: float | None = None) -> PreparedScan:
    """Read and prepare a scan by a contract of ours, where it says what others do; raises `ScanError` for an unfit one.

    Args:
        entry: the scan.
        contract: how.
        unknown: what was defaced becomes this; background if not given, as in the scans that others have seen.
    """
    prepared = prepare_entry(entry, contract)
    value = prepared.record.background if unknown is None else unknown
    np.nan_to_num(prepared.data, copy=False, nan=value)
    return prepared


def as_in_file(prepared: PreparedScan) -> np.ndarray:
    """A prepared scan with its axes in the order and direction of the file."""
    orientation = orientations.io_orientation(np.array(prepared.record.source_affine))
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientation)
    return np.asarray(orientations.apply_orientation(prepared.data, back))


def centred(volume: np.ndarray, patch: Shape3, value: float) -> np.ndarray:
    """The middle `patch` of a volume (D, H, W), filled with `value` where the volume is smaller; float32."""
    window = np.full(patch, value, dtype=np.float32)
    starts = [(side - edge) // 2 for side, edge in zip(volume.shape, patch, strict=True)]
    source = tuple(
        slice(max(0, a), min(side, a + edge))
        for a, edge, side in zip(starts, patch, volume.shape, strict=True)
    )
    target = tuple(slice(part.start - a, part.stop - a) for part, a in zip(source, starts, strict=True))
    window[target] = volume[source]
    return window
