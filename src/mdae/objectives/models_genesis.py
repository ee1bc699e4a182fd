"""Models Genesis: restore a volume from local shuffling, bent intensities, and painting inside or outside of windows.

Zhou et al., Models Genesis, MICCAI 2019 and Medical Image Analysis 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdae.networks import Network
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.distortions import DistortionConfig, apply, draw, to_unit
from mdae.objectives.regions import region_mean
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.tensors import Batch, Mask


class ModelsGenesis(Objective):
    """Restore the original; the error is taken on every voxel."""

    def __init__(self, network: Network, config: DistortionConfig) -> None:
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
        shape = (clean.shape[1], clean.shape[2], clean.shape[3], clean.shape[4])
        told = clean if known is None else clean.masked_fill(~known, 0.0)
        unit, low, extent = to_unit(told)
        seen = apply(draw(self.config, shape, generators), unit) * extent + low
        return seen if known is None else seen.masked_fill(~known, 0.0)


register(
    "models-genesis",
    ObjectiveSpec(
        paper="Zhou et al., Models Genesis, MICCAI 2019 and Medical Image Analysis 2021",
        summary="restore shuffled, recoloured and painted volumes",
        settings=DistortionConfig(),
        build=ModelsGenesis,
    ),
)
