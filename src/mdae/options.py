"""What a user may change of an objective and of the crops it sees; torch-free, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

from mdae.errors import ConfigError
from mdae.types import NoiseKind, Shape3


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """The settings of an objective that are changed most, where it has them; all of them by --set. What is left out
    keeps the objective's own."""

    noise: NoiseKind | None = None
    """Noise schedule: ve (variance exploding), vp (variance preserving), flow, or none."""
    sigma_max: float | None = None
    """Noise level of ve at t = 1, in standard deviations of the volume; 0 adds none."""
    p_min: float | None = None
    """Smallest mask ratio; the ratio of a volume is uniform between p_min and p_max."""
    p_max: float | None = None
    """Largest mask ratio; equal to p_min for a fixed ratio."""
    block: Shape3 | None = None
    """Edges of a mask block in voxels."""
    drop_channel: float | None = None
    """Probability of each channel to be hidden whole, so that one encoder serves whoever lacks a contrast."""

    def given(self) -> dict[str, Any]:
        """The options that were set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """List the objectives, or one's settings with their published values."""

    name: Positional[Annotated[str, arg(metavar="NAME")]] = ""
    """Objective to show whole; all in a table if left out."""
    plugin: Path | None = None
    """Python file of your own with further objectives."""


def require_words(options: Any) -> None:
    """Raise `ConfigError` for a field of a dataclass that may hold some words only and holds another.

    The command line refuses them by itself; a file or a caller may bring anything.
    """
    for name, kind in get_type_hints(type(options)).items():
        words, value = get_args(kind), getattr(options, name)
        if get_origin(kind) is Literal and value not in words:
            raise ConfigError(f"{name} is {value!r}", mend=f"use one of {', '.join(map(repr, words))}")


def read_changes(texts: Sequence[str]) -> dict[str, str]:
    """Settings from `NAME=VALUE` each; `ConfigError` for what is not of that form or comes twice."""
    changes: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name or name in changes:
            raise ConfigError(
                f"{text!r} is given twice" if name in changes else f"{text!r} is no NAME=VALUE",
                where="--set",
                mend="give each setting once, as in --set p_min=0.5 block=8,8,8",
            )
        changes[name] = value.strip()
    return changes


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Changes to crops before an objective sees them, on the device; none by default."""

    flip: float = 0.0
    """Probability that a crop is mirrored, along each axis on its own."""
    rotate_deg: float = 0.0
    """Largest rotation about each axis."""
    scale: float = 0.0
    """Largest scaling: 0.2 for sizes from 1/1.2 to 1.2."""
    gain: float = 0.0
    """Largest change of contrast: 0.2 for z-scores times 1/1.2 to 1.2."""
    shift: float = 0.0
    """Largest change of brightness, in standard deviations."""
    gamma: float = 0.0
    """Largest change of the intensities' curve: 0.5 for exponents from 1/1.5 to 1.5."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or not 0 <= self.rotate_deg <= 45:
            raise ConfigError(
                f"flip {self.flip} or rotate_deg {self.rotate_deg}", mend="give 0 to 1 and 0 to 45 degrees"
            )
        for name in ("scale", "gain", "shift", "gamma"):
            if not 0 <= getattr(self, name) <= 2:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 0 to 2")

    @property
    def spatial(self) -> bool:
        """Whether voxels move by other than whole steps."""
        return self.rotate_deg > 0 or self.scale > 0

    @property
    def any(self) -> bool:
        """Whether anything is changed at all."""
        return any(asdict(self).values())
