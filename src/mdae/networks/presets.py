"""The shape of a network, and the presets that people name on the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mdae.errors import ConfigError
from mdae.types import Shape3


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A residual-encoder U-Net.

    Args:
        in_channels: contrasts stacked into one volume.
        features: channels of each encoder stage; each stage but the first halves the resolution.
        blocks: residual blocks of each encoder stage; each decoder stage has one convolution.
        time_dim: width of the time embedding (6).
    """

    in_channels: int = 1
    features: tuple[int, ...]
    blocks: tuple[int, ...]
    time_dim: int = 256

    def __post_init__(self) -> None:
        if len(self.features) != len(self.blocks) or len(self.features) < 2:
            raise ConfigError(
                f"features {self.features} and blocks {self.blocks} differ in length or are under two",
                mend="give one number of each for every stage",
            )
        if min(self.in_channels, *self.features, *self.blocks) < 1:
            raise ConfigError(
                "a network with fewer than one channel, feature or block", mend="give 1 or more"
            )
        if self.time_dim < 2 or self.time_dim % 2:
            raise ConfigError(f"time_dim is {self.time_dim}", mend="give an even number of 2 or more")

    @property
    def stride(self) -> int:
        """Every side of an input must be a multiple of this."""
        return int(2 ** (len(self.features) - 1))

    def check_shape(self, shape: Shape3) -> None:
        """Raise `ConfigError` for a volume that the network's strides do not allow."""
        if any(side % self.stride for side in shape):
            fits = tuple(math.ceil(side / self.stride) * self.stride for side in shape)
            raise ConfigError(
                f"a volume of {shape} voxels: each side must be a multiple of {self.stride}",
                mend=f"pad it to {fits}",
            )
        if math.prod(side // self.stride for side in shape) < 2:
            raise ConfigError(
                f"a volume of {shape} voxels leaves one voxel at the deepest stage, which cannot be normalised",
                mend=f"use a side of at least {2 * self.stride}",
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`; unknown or missing keys raise `TypeError`."""
        return cls(
            **{
                **values,
                "features": tuple(values["features"]),
                "blocks": tuple(values["blocks"]),
            }
        )


@dataclass(frozen=True)
class Preset:
    """A named network with the patch it is meant for."""

    network: NetworkConfig
    patch: Shape3
    use: str

    def crop(self, patch: Shape3 | None) -> Shape3:
        """The patch that was asked for, else the preset's own; `ConfigError` if the strides do not allow it."""
        chosen = patch or self.patch
        self.network.check_shape(chosen)
        return chosen


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        NetworkConfig(features=(8, 16, 32, 64), blocks=(1, 1, 1, 1)), (48, 48, 48), "a laptop's CPU, the demo"
    ),
    "small": Preset(
        NetworkConfig(features=(16, 32, 64, 128, 160), blocks=(1, 2, 2, 2, 2)), (96, 96, 96), "one small GPU"
    ),
    "base": Preset(
        NetworkConfig(features=(32, 64, 128, 256, 320), blocks=(1, 2, 3, 4, 4)), (128, 128, 128), "one GPU"
    ),
    "resenc-l": Preset(
        NetworkConfig(features=(32, 64, 128, 256, 320, 320), blocks=(1, 3, 4, 6, 6, 6)),
        (160, 160, 160),
        "nnU-Net's ResEnc-L: the paper's backbone",
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name, or `ConfigError` naming those there are."""
    if name not in PRESETS:
        raise ConfigError(f"no network preset {name!r}", mend=f"use one of {', '.join(PRESETS)}")
    return PRESETS[name]
