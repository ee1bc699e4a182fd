"""Models Genesis: restore a volume from local shuffling, bent intensities, and painting inside or outside of windows.

Zhou et al., Models Genesis, MICCAI 2019 and Medical Image Analysis 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdae.errors import ConfigError
from mdae.networks import ResidualUNet
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.distortions import Rates, apply, draw, to_unit
from mdae.objectives.regions import region_mean
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.tensors import Batch, Mask


@dataclass(frozen=True, kw_only=True)
class ModelsGenesisConfig:
    """How volumes are distorted; the defaults are published.

    Args:
        shuffle, nonlinear, paint: the probability of each distortion.
        outside: the probability that painting is outside of its windows rather than inside.
        num_windows: windows that are shuffled. Their sides are up to a tenth of the volume's, so that a number
            covers the same share of a volume of any size.
    """

    shuffle: float = 0.5
    nonlinear: float = 0.9
    paint: float = 0.9
    outside: float = 0.8
    num_windows: int = 10_000

    def __post_init__(self) -> None:
        for name in ("shuffle", "nonlinear", "paint", "outside"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give a probability, 0 to 1")
        if not 1 <= self.num_windows < 2**20:
            raise ConfigError(f"num_windows is {self.num_windows}", mend="give 1 to a million")


class ModelsGenesis(Objective):
    """Restore the original; the error is taken on every voxel."""

    def __init__(self, network: ResidualUNet, config: ModelsGenesisConfig) -> None:
        super().__init__(network)
        self.config = config

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Draw, distort, predict, compare; unknown voxels are hidden after all distortions."""
        with torch.no_grad():
            seen = self.distorted(clean, generators, known)
        prediction: Tensor = self.network(seen, clean.new_zeros(len(clean)))
        error = region_mean((prediction.float() - clean).square(), known)
        pictures = {}
        if not self.training:
            pictures = {"clean": clean, "corrupted": seen, "reconstructed": prediction.detach()}
        loss = error.mean()
        return StepOutput(loss, {"restored": loss.detach()}, pictures)

    def distorted(self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None) -> Batch:
        """What the network sees, in the units of the clean volumes."""
        config = self.config
        shape = (clean.shape[1], clean.shape[2], clean.shape[3], clean.shape[4])
        rates = Rates(
            shuffle=config.shuffle, nonlinear=config.nonlinear, paint=config.paint, outside=config.outside
        )
        told = clean if known is None else clean.masked_fill(~known, 0.0)
        unit, low, extent = to_unit(told)
        seen = apply(draw(rates, config.num_windows, shape, generators), unit) * extent + low
        return seen if known is None else seen.masked_fill(~known, 0.0)


register(
    "models-genesis",
    ObjectiveSpec(
        paper="Zhou et al., Models Genesis, MICCAI 2019 and Medical Image Analysis 2021",
        summary="restore shuffled, recoloured and painted volumes",
        settings=ModelsGenesisConfig(),
        build=ModelsGenesis,
    ),
)
