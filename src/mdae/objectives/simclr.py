"""SimCLR (Chen et al. 2020): two augmented views of a crop should be alike, and unlike those of other crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.heads import Projection, nt_xent, pooled
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.objectives.views import ViewOptions, apply_view, draw_view
from mdae.tensors import Batch, Mask


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """Settings of SimCLR.

    Args:
        temperature: tau of the loss. The paper's 0.1 is for batches of thousands; 0.5 is its choice for small images
            and OpenMind's for volumes.
        projection: width of the space where views are compared.
        views: how they differ from the crop.
    """

    temperature: float = 0.5
    projection: int = 128
    views: ViewOptions = field(default_factory=ViewOptions)

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.projection < 1:
            raise ConfigError(
                f"temperature {self.temperature} or projection {self.projection}",
                mend="give a temperature above 0 and a width of 1 or more",
            )


class SimCLR(Objective):
    """Two views a sample, the encoder, a perceptron of one hidden layer, and the cross entropy `nt_xent`.

    The representation is the mean over voxels of every stage, as `embed` returns it and as OpenMind projects it, rather
    than of the last stage alone: what is compared is what is kept. Negatives are the views of the other samples that
    the device takes at once, and the perceptron's hidden units are standardised over the same views, as in the authors'
    code; samples on other devices or in other micro-batches take no part. Without that, untrained features are so much
    alike that the loss stays at log(2N - 1).
    """

    needs = "stages"
    mixes_samples: ClassVar[bool] = True
    min_batch: ClassVar[int] = 2

    def __init__(self, network: Network, settings: SimCLRConfig) -> None:
        super().__init__(network)
        self.settings = settings
        width = sum(network.widths)
        self.project = Projection(width, width, settings.projection, normalise=True)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Compare two views of each sample with each other and with everybody else's."""
        self.check_batch(len(clean))
        options = self.settings.views
        with torch.no_grad():
            clean = clean if known is None else clean.masked_fill(~known, 0.0)
            drawn = [draw_view(options, tuple(clean.shape[1:]), generators) for _ in range(2)]
            views = [apply_view(view, clean, known, options) for view in drawn]
        z = self.project(pooled(self.network.stages(torch.cat(views))))
        first, second = z.chunk(2)
        loss, accuracy = nt_xent(first, second, self.settings.temperature)
        pictures = {}
        if not self.training:
            pictures = {"clean": clean, "first view": views[0], "second view": views[1]}
        return StepOutput(loss, {"accuracy": accuracy}, pictures)


register(
    "simclr",
    ObjectiveSpec(
        paper="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
        summary="tell two augmented views of a crop from those of other crops",
        settings=SimCLRConfig(),
        build=SimCLR,
    ),
)
