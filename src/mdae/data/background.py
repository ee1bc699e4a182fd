"""What is background in a raw scan: what is constant or padding first, then the darkest.

Padding is a value that no tissue has: -3024 outside of a CT's circle, the zeros around a brain that was cut out or
z-scored. Air beside it is another background. Inverted contrast has it bright.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SAMPLES = 48  # voxels a side that are looked at
CONSTANT = 0.1  # of the faces' voxels: a value that so many share is padding
TRIFLE = 0.1  # of the robust range: less is no difference between tissue and background
RARE = 0.02  # of the voxels: undershoot at edges, spikes
GAP = 0.25  # of the robust range: padding farther from everything else is no air
BIMODAL = (
    0.85  # of the variance between two classes (Otsu 1979), from which they are two; a Gaussian has 0.64
)
BESIDE = 0.25  # of the faces' voxels that are not padding: a dark class of less is no air
HALF_BRIGHT = 0.6  # of the robust range: faces all above it are a bright background


class Background(NamedTuple):
    """How a scan's background is told.

    Attributes:
        padding: a value of no tissue's, None where there is none.
        inside: whether the padding lies apart from all other values, so that these alone count.
        air: the darkest of what is not padding, where that is a background too; None where it is not.
        inverted: whether the background is the brightest.
    """

    padding: float | None = None
    inside: bool = False
    air: float | None = None
    inverted: bool = False


def thinned(data: np.ndarray) -> np.ndarray:
    """Every so manieth voxel of a volume, no more than `SAMPLES` a side."""
    return np.ascontiguousarray(data[tuple(slice(None, None, -(-side // SAMPLES)) for side in data.shape)])


def find_background(data: np.ndarray) -> Background:
    """What is background in a scan (D, H, W)."""
    faces, values = _faces(data), thinned(data).ravel()
    padding = padding_value(faces)
    rest = values if padding is None else values[values != padding]
    if not rest.size:
        return Background(padding)
    low, high = (float(value) for value in np.percentile(rest, [2, 98]))
    if padding is None:
        return Background(inverted=_bright(faces, rest, low, high))
    trifle = TRIFLE * (high - low)
    darker, brighter = (rest < padding - trifle).mean() > RARE, (rest > padding).mean() > RARE
    if darker and not brighter:
        gap = padding - float(np.percentile(rest, 99))
    else:
        gap = float(np.percentile(rest, 1)) - padding
    if not (darker and brighter) and gap <= GAP * (high - low):
        return Background(padding, inverted=bool(darker and not brighter))
    return Background(padding, inside=True, air=_air(rest, faces[faces != padding]))


def padding_value(faces: np.ndarray) -> float | None:
    """The value that many voxels of a volume's faces share exactly."""
    values, counts = np.unique(faces, return_counts=True)
    most = int(np.argmax(counts))
    return float(values[most]) if counts[most] >= CONSTANT * faces.size else None


def padding_of(data: np.ndarray) -> float | None:
    """The padding of a volume (D, H, W), None without one."""
    return padding_value(_faces(data))


def _faces(data: np.ndarray) -> np.ndarray:
    """Intensities on the six faces of a volume, enough of them."""
    steps = tuple(slice(None, None, -(-side // SAMPLES)) for side in data.shape)
    faces = (data[(*steps[:axis], end, *steps[axis + 1 :])].ravel() for axis in range(3) for end in (0, -1))
    return np.concatenate(list(faces))


def _bright(faces: np.ndarray, rest: np.ndarray, low: float, high: float) -> bool:
    """Whether the faces are evenly bright, and hardly anything is brighter."""
    quarter, middle, three = (float(value) for value in np.percentile(faces, [25, 50, 75]))
    even = three - quarter < TRIFLE * (high - low)
    bright = middle > low + HALF_BRIGHT * (high - low)
    return bool(even and bright and (rest > middle + TRIFLE * (high - low)).mean() < CONSTANT)


def _air(rest: np.ndarray, faces: np.ndarray) -> float | None:
    """The level of a dark background in what is not padding, if it has one: a class of its own that meets the faces."""
    low, high = np.percentile(rest, [0.5, 99.5])
    counts, edges = np.histogram(rest, bins=64, range=(low, high))
    middles = (edges[1:] + edges[:-1]) / 2
    share = np.cumsum(counts) / counts.sum()
    mean = np.cumsum(counts * middles) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * share - mean) ** 2 / (share * (1 - share))
    between = np.nan_to_num(between)
    variance = float((counts * (middles - mean[-1]) ** 2).sum() / counts.sum())
    best = int(np.argmax(between))
    beside = float((faces <= edges[best + 1]).mean()) if faces.size else 0.0
    if between[best] < BIMODAL * variance or beside < BESIDE:
        return None
    return float(np.median(rest[rest <= edges[best + 1]]))
