"""How a scan's intensities become what a network sees: by one of three ways, mean 0 and unit deviation by each.

MDAE measures its noise in standard deviations of the volume (sigma_data = 1), so whatever is chosen ends there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from tyro.constructors import PrimitiveConstructorSpec

from mdae.errors import ConfigError
from mdae.foreground import is_foreground

ROBUST_PERCENTILES = (0.5, 99.5)  # intensities beyond do not enter mean and standard deviation
Z_RANGE = (-5.0, 10.0)  # vessels and fat are bright; nothing of use lies beyond
Region = Literal["head", "box", "foreground"]


@dataclass(frozen=True)
class ZScore:
    """Mean and standard deviation of a region of the scan itself: for MRI, whose units mean nothing.

    Attributes:
        over: `head` (or whatever anatomy is looked for), without the half percent at either end; `box`, all that is
            kept, as nnssl does; `foreground`, the voxels of the box that are no background, robustly too.
    """

    over: Region = "head"

    def __post_init__(self) -> None:
        if self.over not in ("head", "box", "foreground"):
            raise ConfigError(f"a z-score over {self.over!r}", mend="use head, box or foreground")

    def __str__(self) -> str:
        return f"zscore:{self.over}"


@dataclass(frozen=True)
class Window:
    """Intensities between two values, for CT in HU; what lies beyond is the nearer of them.

    Attributes:
        low, high: the window, in the scan's units.
        mean, std: what is taken off and divided by, the same for every scan, so that a tissue has one value in all.
            None for those of the windowed scan, whose deviation is then exactly 1.
    """

    low: float
    high: float
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"a window from {self.low:g} to {self.high:g}", mend="give two numbers, the lower one first"
            )
        mean, std = (0.0, 1.0) if self.mean is self.std is None else (self.mean, self.std)
        if mean is None or std is None or not (math.isfinite(mean) and 0 < std < math.inf):
            raise ConfigError(
                f"a mean of {self.mean} and a deviation of {self.std}",
                mend="give both, the deviation above 0, or neither",
            )

    def __str__(self) -> str:
        name = next((name for name, preset in PRESETS.items() if preset == self), None)
        numbers = (number for number in (self.low, self.high, self.mean, self.std) if number is not None)
        return name or "window:" + ",".join(f"{number:.10g}" for number in numbers)


@dataclass(frozen=True)
class Percentile:
    """Intensities between two percentiles of the head's; then mean and standard deviation of what that gives.

    Attributes:
        low, high: percentiles, 0 to 100.
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ConfigError(
                f"percentiles {self.low:g} to {self.high:g}",
                mend="give two from 0 to 100, the lower one first",
            )

    def __str__(self) -> str:
        return f"percentile:{self.low:.10g},{self.high:.10g}"


Intensity = ZScore | Window | Percentile
# Radiology's usual windows, in HU: width 80 at level 40, 1500 at -600, 400 at 40, 1800 at 400.
PRESETS = {
    "ct-brain": Window(0.0, 80.0),
    "ct-lung": Window(-1350.0, 150.0),
    "ct-soft": Window(-160.0, 240.0),
    "ct-bone": Window(-500.0, 1300.0),
}
KINDS: dict[str, type[Intensity]] = {"zscore": ZScore, "window": Window, "percentile": Percentile}
FORMS = f"zscore:head, zscore:box, zscore:foreground, {', '.join(PRESETS)}, window:LOW,HIGH or percentile:LOW,HIGH"


def parse_intensity(text: str) -> Intensity:
    """The inverse of `str`; raises `ConfigError` for anything else.

    `window:LOW,HIGH,MEAN,STD` fixes what is taken off and divided by.
    """
    if text in PRESETS:
        return PRESETS[text]
    name, _, rest = text.partition(":")
    try:
        if name == "zscore":
            return ZScore(rest or "head")  # type: ignore[arg-type]
        if name in KINDS:
            return KINDS[name](*(float(part) for part in rest.split(",") if part))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"intensity {text!r}", mend=f"use {FORMS}")


def intensity_to_dict(intensity: Intensity) -> dict[str, Any]:
    """A JSON-able copy, `kind` telling the three apart; numbers that are not given are left out."""
    kind = next(kind for kind, of in KINDS.items() if isinstance(intensity, of))
    return {"kind": kind, **{name: value for name, value in asdict(intensity).items() if value is not None}}


def intensity_from_dict(values: dict[str, Any]) -> Intensity:
    """The inverse of `intensity_to_dict`; raises `KeyError`, `TypeError` or `ConfigError` for anything else."""
    return KINDS[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})


def _parse_argument(words: list[str]) -> Intensity:
    try:
        return parse_intensity(words[0])
    except ConfigError as error:  # the command line shows a ValueError beside the option
        raise ValueError(str(error)) from error


IntensityOption = Annotated[
    Intensity,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="HOW",
        instance_from_str=_parse_argument,
        is_instance=lambda value: isinstance(value, (ZScore, Window, Percentile)),
        str_from_instance=lambda value: [str(value)],
    ),
]


class Sample(NamedTuple):
    """A scan's intensities at enough voxels for statistics, all of one shape.

    Attributes:
        values: float32.
        anatomy: bool, of the head or whatever was looked for; padding and defaced voxels are no part of it.
        box: part of them that is kept.
        known: bool, what was not defaced; None for all.
        background: of what is no anatomy.
    """

    values: np.ndarray
    anatomy: np.ndarray
    box: tuple[slice, ...]
    known: np.ndarray | None
    background: float


class Scaling(NamedTuple):
    """Intensity x becomes (clip(x, low, high) - mean) / std; std is 0 where all are equal."""

    mean: float
    std: float
    low: float
    high: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values scaled, in a new array, float32."""
        out: np.ndarray = values - np.float32(self.mean)
        out /= np.float32(self.std)
        low, high = (np.float32((end - self.mean) / self.std) for end in (self.low, self.high))
        return np.clip(out, low, high, out=out)

    def at(self, intensity: float) -> float:
        """One intensity scaled."""
        return (min(max(intensity, self.low), self.high) - self.mean) / self.std


def find_scaling(how: Intensity, sample: Sample, kept: np.ndarray) -> Scaling:
    """How a scan's intensities are scaled.

    Args:
        how: the contract's choice.
        sample: of the whole scan.
        kept: all known intensities of the box, which `zscore:box` and windows count.
    """
    if isinstance(how, Window):
        if how.mean is not None and how.std is not None:
            return Scaling(how.mean, how.std, how.low, how.high)
        return Scaling(*_moments(np.clip(kept, how.low, how.high)), how.low, how.high)
    inside = sample.values[sample.anatomy]
    if isinstance(how, Percentile):
        if not inside.size:
            return Scaling(0.0, 0.0, 0.0, 0.0)
        low, high = (float(value) for value in np.percentile(inside, [how.low, how.high]))
        return Scaling(*_moments(np.clip(inside, low, high)), low, high)
    if how.over == "box":
        return _z_score(*_moments(kept))
    mean, std = robust_moments(inside)
    if how.over == "foreground" and std > 0:
        values = sample.values[sample.box]
        there = is_foreground((values - np.float32(mean)) / np.float32(std), (sample.background - mean) / std)
        there = there if sample.known is None else there & sample.known[sample.box]
        mean, std = robust_moments(values[there]) if there.any() else (mean, std)
    return _z_score(mean, std)


def _z_score(mean: float, std: float) -> Scaling:
    return Scaling(mean, std, mean + Z_RANGE[0] * std, mean + Z_RANGE[1] * std)


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; 0 of nothing."""
    if not values.size:
        return 0.0, 0.0
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def robust_moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the values between two percentiles; 0 of nothing."""
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, ROBUST_PERCENTILES)
    return _moments(values[(values >= low) & (values <= high)])
