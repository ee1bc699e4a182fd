"""From a raw scan to what the network sees. Everything here is pure; `mdae.data.native` has the way back.

A scan is turned to RAS, cropped to its anatomy, resampled to one spacing, and its intensities are standardised. The
record of a prepared scan maps every voxel back to its source.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from isal import isal_zlib
from nibabel import orientations
from nibabel.affines import from_matvec, voxel_sizes
from scipy import ndimage

from mdae.data.background import thinned
from mdae.data.grid import Grid, on_grid
from mdae.data.head import Box, Head, find_head
from mdae.data.intensity import (
    ROBUST_PERCENTILES,
    IntensityOption,
    Sample,
    ZScore,
    find_scaling,
    intensity_from_dict,
    intensity_to_dict,
)
from mdae.data.io import MIN_SLICES, Scan, Series
from mdae.data.modality import looks_like_ct, told_of_scaling
from mdae.data.resample import AxisMap, resample
from mdae.errors import ConfigError, ScanError
from mdae.text import printable
from mdae.types import Shape3, Spacing, shape3

UNKNOWN = 0.0  # what networks see of voxels that nobody knows, in training and after it: the mean, as of masked ones
TOUCHED = 0.01  # of a voxel's weight on defaced voxels, from which it is unknown
LONG = 96  # voxels a side, from which every second is enough for statistics
SAME_MM = 1e-3  # spacings that differ by less are the same
MUCH_CUT = 1 / 3  # of the anatomy's height, from which it is told
Strip = Literal["none", "hd-bet", "synthstrip"]
Anatomy = Literal["auto", "head", "body", "none"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How raw scans are prepared: the contract that a saved model keeps. Orientation is always RAS."""

    spacing_mm: Spacing = (1.0, 1.0, 1.0)
    """Voxel spacing in mm along x, y, z."""
    anatomy: Anatomy = "auto"
    """What to look for: a head, a body (which is kept in its whole height), or nothing. By itself a head, and where
    none can be told from the background, the scan is taken whole."""
    crop: Literal["anatomy", "nonzero", "none"] = "anatomy"
    """Crop to the anatomy's bounding box, to what is not 0, or keep the field of view."""
    margin_mm: float = 5.0
    """Kept around the anatomy."""
    height_mm: float = 200.0
    """How far below the top of a head the crop reaches at most; what is below is neck."""
    intensity: IntensityOption = field(default_factory=ZScore)
    """Of MRI: zscore:head (mean and standard deviation of the anatomy, robustly), zscore:foreground, zscore:box (of
    all that was kept, as nnssl does), or percentile:0.5,99.5. Of CT: ct-brain, ct-lung, ct-soft, ct-bone, or any
    window:LOW,HIGH in HU."""
    order: Literal[1, 3] = 3
    """Order of the spline that resamples."""
    series: Series = "set_aside"
    """Set files of several volumes aside, or take the first volume."""
    strip: Strip = "none"
    """Keep the brain alone, by HD-BET or SynthStrip, which have to be installed."""
    min_slices: int = MIN_SLICES
    """Least number of voxels along every axis of a scan; thinner ones are set aside."""

    def __post_init__(self) -> None:
        if len(self.spacing_mm) != 3 or not all(0.1 <= spacing <= 20 for spacing in self.spacing_mm):
            raise ConfigError(
                f"a spacing of {self.spacing_mm} mm", mend="give three numbers between 0.1 and 20"
            )
        if self.margin_mm < 0 or self.height_mm <= 0:
            raise ConfigError("a negative margin or no height", mend="give margin_mm >= 0 and height_mm > 0")
        if self.min_slices < 2:
            raise ConfigError(
                f"{self.min_slices} slices at least", mend="give min_slices 2 or more: 3D volumes"
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        plain = {**asdict(self), "spacing_mm": list(self.spacing_mm)}
        return {**plain, "intensity": intensity_to_dict(self.intensity)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`, of earlier versions' too; raises `TypeError` or `KeyError` for other keys."""
        values = _renamed(values)
        x, y, z = values["spacing_mm"]
        intensity = intensity_from_dict(values["intensity"])
        return cls(**{**values, "spacing_mm": (float(x), float(y), float(z)), "intensity": intensity})


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """A contract's fields under their names of today."""
    out = {"intensity": {"kind": "zscore"}, **values}
    if "normalise" in out:
        out["intensity"] = {"kind": "zscore", "over": out.pop("normalise")}
    if out.get("crop") == "head":
        out["crop"] = "anatomy"
    return out


NNSSL = Preprocessing(crop="nonzero", intensity=ZScore("box"), margin_mm=0.0, height_mm=10_000.0)
"""The nearest to nnssl's own preprocessing at 1 mm, for scans that a model trained on its volumes is given.

nnssl keeps the file's orientation and takes the nearest slice across thick ones; this does neither.
"""


@dataclass(frozen=True)
class PreparedRecord:
    """How a scan was prepared.

    Attributes:
        source: the file.
        content: a hash of its voxels, the same for copies of a scan under any name.
        source_shape, source_affine: of the file.
        crop_start, crop_shape: the box kept, in voxels of the scan turned to RAS.
        shape, affine: of the prepared volume; the affine maps to the same world millimetres as the source's.
        mean, std: a prepared value times std plus mean is the intensity.
        foreground: the share of the box that is anatomy.
        background: the prepared value of the background, and of padding.
        unknown: the share of the prepared volume that an anonymisation mask marks as defaced; NaN there.
        modality: in DICOM's words, by the file or by its range; "" where nobody knows.
        notes: what a person should be told of it, "KIND: detail" each.
        own_grid: whether the voxels lie on a grid of its own, rather than on that of another scan of the session.
    """

    source: str
    content: str
    source_shape: Shape3
    source_affine: list[list[float]]
    crop_start: Shape3
    crop_shape: Shape3
    shape: Shape3
    affine: list[list[float]]
    mean: float
    std: float
    foreground: float
    background: float
    unknown: float = 0.0
    modality: str = ""
    notes: tuple[str, ...] = ()
    own_grid: bool = True

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreparedRecord:
        """The inverse of `to_dict`."""
        shapes = ("source_shape", "crop_start", "crop_shape", "shape")
        tuples = {name: shape3(values[name]) for name in shapes}
        return cls(**{**values, **tuples, "notes": tuple(values.get("notes", ()))})

    @property
    def source_spacing_mm(self) -> Spacing:
        """Voxel spacing of the source, in RAS order."""
        _, ras_affine = ras_geometry(self.source_shape, np.array(self.source_affine))
        x, y, z = voxel_sizes(ras_affine)
        return float(x), float(y), float(z)

    def axes(self) -> tuple[AxisMap, AxisMap, AxisMap]:
        """Where the prepared voxels lie in the source turned to RAS and cropped.

        Raises:
            ScanError: they are turned against it, as those on another scan's grid may be.
        """
        _, ras_affine = ras_geometry(self.source_shape, np.array(self.source_affine))
        if not self.own_grid:
            grid, turned = (
                Grid(self.shape, np.array(self.affine)),
                "turned against the grid that it was brought to",
            )
            if (axes := grid.axes_in(ras_affine, self.crop_shape)) is None:
                raise ScanError(
                    turned, where=self.source, mend="use the grid of its session's first contrast"
                )
            return axes
        spacing = voxel_sizes(ras_affine)
        target = voxel_sizes(np.array(self.affine))
        x, y, z = (
            _axis(n, m, float(old), float(new))
            for n, m, old, new in zip(self.crop_shape, self.shape, spacing, target, strict=True)
        )
        return x, y, z


@dataclass(frozen=True)
class PreparedScan:
    """A prepared scan: z-scores (D, H, W) float32, their affine (4, 4), and the record of how they came about."""

    data: np.ndarray
    affine: np.ndarray
    record: PreparedRecord


def prepare_scan(
    scan: Scan,
    contract: Preprocessing,
    *,
    anatomy: np.ndarray | None = None,
    anonymised: np.ndarray | None = None,
    onto: Grid | None = None,
) -> PreparedScan:
    """Prepare a scan by a contract; pure.

    Anisotropic scans are treated as any other: in-plane voxels finer than wanted are smoothed to the new width first,
    thick slices are interpolated by the spline.

    Args:
        scan: as read.
        contract: how to prepare it.
        anatomy: what is head or brain, (D, H, W) bool on the scan's voxels; found by itself if not given. A contract
            that strips the skull needs it: the brain, of which alone is left.
        anonymised: voxels that were defaced, likewise. They count for nothing, and become NaN.
        onto: the grid to bring it to, of another scan of the session; its own crop and grid if not given. Intensities
            are standardised by its own anatomy either way. What the scan does not reach becomes NaN.

    Raises:
        ScanError: no head can be found, or its intensities are constant.
    """
    stripped = scan.data if contract.strip == "none" else _stripped(scan.data, anatomy)
    data, ras_affine = to_ras(stripped, scan.affine)
    spacing = voxel_sizes(ras_affine)
    hidden = None if anonymised is None else to_ras(anonymised, scan.affine)[0]
    given = None if anatomy is None else to_ras(anatomy, scan.affine)[0]
    head, notes = _anatomy(data, spacing, contract, given, scan)
    box = _box(head, data.shape, spacing, contract)
    if box.cut > MUCH_CUT:
        notes += (f"cut below {contract.height_mm:g} mm from the top: {box.cut:.0%} of its height",)
    kept = data[box.slices] if hidden is None else data[box.slices][~hidden[box.slices]]
    sample, foreground = _sample(data, head, hidden, box)
    modality = scan.modality or ("CT" if looks_like_ct(thinned(data)) else "")
    scaling = find_scaling(contract.intensity, sample, kept)
    if not scaling.std > 0:
        raise ScanError("the anatomy's intensities are constant", where=scan.path, mend="look at the file")
    if onto is None:
        values, unknown, affine = _on_own_grid(data, hidden, box, ras_affine, contract)
    else:
        values, unknown, affine = _onto(data, hidden, onto, ras_affine, contract)
        box = Box((0, 0, 0), shape3(data.shape))
    values = scaling(values)
    values[unknown] = np.nan
    record = PreparedRecord(
        source=printable(scan.path),
        content=content_hash(scan.data),
        source_shape=shape3(scan.data.shape),
        source_affine=scan.affine.tolist(),
        crop_start=box.low,
        crop_shape=box.shape,
        shape=shape3(values.shape),
        affine=affine.tolist(),
        mean=scaling.mean,
        std=scaling.std,
        foreground=foreground,
        background=scaling.at(sample.background),
        unknown=float(unknown.mean()),
        modality=modality,
        notes=(*scan.notes, *notes, *told_of_scaling(modality, contract.intensity)),
        own_grid=onto is None,
    )
    return PreparedScan(values, affine, record)


def _on_own_grid(
    data: np.ndarray, hidden: np.ndarray | None, box: Box, ras_affine: np.ndarray, contract: Preprocessing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The box at the contract's spacing: intensities, which voxels nobody knows, and their affine."""
    x, y, z = (
        _axis(n, _new_size(n, old, new), old, new)
        for n, old, new in zip(box.shape, voxel_sizes(ras_affine).tolist(), contract.spacing_mm, strict=True)
    )
    values = resample(data[box.slices], (x, y, z), order=contract.order)
    unknown = np.zeros(values.shape, dtype=bool)
    if hidden is not None:
        unknown = resample(hidden[box.slices], (x, y, z), order=1) > TOUCHED
    affine = ras_affine @ from_matvec(np.eye(3), box.low)
    affine = affine @ from_matvec(np.diag([x.scale, y.scale, z.scale]), [x.offset, y.offset, z.offset])
    return values, unknown, affine


def _onto(
    data: np.ndarray, hidden: np.ndarray | None, onto: Grid, ras_affine: np.ndarray, contract: Preprocessing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same on another scan's grid, where voxels that the scan does not reach are unknown."""
    values, covered = on_grid(data, ras_affine, onto, order=contract.order)
    unknown = ~covered
    if hidden is not None:
        unknown |= on_grid(hidden, ras_affine, onto, order=1)[0] > TOUCHED
    return values, unknown, onto.affine


def _anatomy(
    data: np.ndarray, spacing: np.ndarray, contract: Preprocessing, given: np.ndarray | None, scan: Scan
) -> tuple[Head, tuple[str, ...]]:
    """Where the anatomy is, and what is to be told of it."""
    if given is not None:
        head = Head(given, (1, 1, 1))
    elif contract.crop == "nonzero":
        head = Head(ndimage.binary_fill_holes(data != 0), (1, 1, 1))
    elif contract.anatomy == "none":
        return Head.whole(data), ()
    else:
        head = find_head(data, spacing)
    if head.mask.any():
        return head, ()
    asked = contract.crop != "none" and contract.anatomy in ("head", "body")
    if given is not None or asked:
        raise ScanError(
            f"no {contract.anatomy if asked else 'anatomy'} can be told from the background",
            where=scan.path,
            mend="look at the file; --anatomy none takes it whole",
        )
    notes = () if contract.crop == "none" else ("no head can be told from the background: prepared whole",)
    return Head.whole(data), notes


def _box(head: Head, shape: tuple[int, ...], spacing: np.ndarray, contract: Preprocessing) -> Box:
    """What is kept of a volume."""
    if contract.crop == "none" or contract.anatomy == "none":
        return Box((0, 0, 0), shape3(shape))
    height_mm = np.inf if contract.anatomy == "body" else contract.height_mm
    return head.box(shape, spacing, margin_mm=contract.margin_mm, height_mm=height_mm)


def content_hash(data: np.ndarray) -> str:
    """The same for copies of a scan under any name: SHA-256 of every fourth slice and CRC-32 of all, much faster."""
    slices = np.ascontiguousarray(data.T)  # no copy as files are read
    digest = hashlib.sha256(np.ascontiguousarray(slices[::4]).data)
    digest.update(isal_zlib.crc32(slices.reshape(-1).view(np.uint8).data).to_bytes(4, "little"))
    return digest.hexdigest()[:20]


def _stripped(data: np.ndarray, brain: np.ndarray | None) -> np.ndarray:
    """Voxels with what is not brain set to their darkest value, robustly: 0 in most MRI, air in CT."""
    if brain is None:
        raise ValueError("a contract that strips the skull needs the brain's mask")
    darkest = np.float32(np.percentile(data[::2, ::2, ::2], ROBUST_PERCENTILES[0]))
    return np.where(brain, data, darkest)


def to_ras(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip the axes to the nearest RAS order; an oblique rest stays in the affine."""
    orientation, ras_affine = ras_geometry(shape3(data.shape), affine)
    return orientations.apply_orientation(data, orientation), ras_affine


def ras_geometry(shape: Shape3, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The change of axes that leads to RAS, and the affine afterwards."""
    orientation = orientations.io_orientation(affine)
    return orientation, affine @ orientations.inv_ornt_aff(orientation, shape)


def _sample(data: np.ndarray, head: Head, hidden: np.ndarray | None, box: Box) -> tuple[Sample, float]:
    """Intensities enough for statistics, and the share of the box that is anatomy.

    From every second voxel along long axes: hundreds of thousands are enough, and eight times fewer to sort.
    """
    strides = tuple(2 if side >= LONG else 1 for side in data.shape)
    sparse = tuple(slice(None, None, stride) for stride in strides)
    values, inside_head = data[sparse], head.at(data.shape, strides)
    if head.background.inside:  # blocks at its edge hold padding too
        inside_head &= values != head.background.padding
    inner = tuple(
        slice(-(-part.start // stride), -(-part.stop // stride))
        for part, stride in zip(box.slices, strides, strict=True)
    )
    foreground = float(inside_head[inner].mean())
    known = None if hidden is None else ~hidden[sparse]
    if known is not None:
        inside_head &= known
    background = head.background.air
    if background is None:
        outside = values[~inside_head] if known is None else values[~inside_head & known]
        background = float(np.median(outside)) if outside.size > values.size // 100 else float(data.min())
    return Sample(values, inside_head, inner, known, background), foreground


def _new_size(size: int, old: float, new: float) -> int:
    """How many voxels cover the same extent."""
    return size if abs(old - new) < SAME_MM else max(1, round(size * old / new))


def _axis(size_in: int, size_out: int, old: float, new: float) -> AxisMap:
    """The new voxels centred on the old extent."""
    if abs(old - new) < SAME_MM and size_in == size_out:
        return AxisMap(size_in, size_out, 1.0, 0.0)
    scale = new / old
    return AxisMap(size_in, size_out, scale, (size_in - 1) / 2 - scale * (size_out - 1) / 2)
