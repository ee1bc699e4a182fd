"""Volume Fusion: two volumes are mixed in boxes, and every voxel's mixing coefficient is to be told, as a class.

Wang et al., MIS-FM: 3D Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale Unannotated
Dataset, arXiv 2306.16925, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.regions import region_mean
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.objectives.windows import draw_windows, inside, whole
from mdae.tensors import Batch, Mask, PerSample
from mdae.types import Shape3

SMOOTH = 1e-5  # in both halves of Dice's fraction


@dataclass(frozen=True, kw_only=True)
class VolumeFusionConfig:
    """How two volumes are mixed.

    Args:
        levels: K; the coefficients are 0, 1/K, ..., 1, and the classes are as many.
        boxes_min, boxes_max: how many boxes are mixed in, uniformly.
        side_min, side_max: their sides as a share of the volume's, uniform along each axis.
    """

    levels: int = 4
    boxes_min: int = 10
    boxes_max: int = 40
    side_min: float = 0.0625
    side_max: float = 0.625

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ConfigError(f"levels is {self.levels}", mend="give 1 or more")
        if not 0 < self.boxes_min <= self.boxes_max or not 0 < self.side_min <= self.side_max <= 1:
            raise ConfigError(
                f"{self.boxes_min} to {self.boxes_max} boxes, sides {self.side_min} to {self.side_max}",
                mend="give ascending numbers above 0, and sides up to 1",
            )


class VolumeFusion(Objective):
    """Tell each voxel's coefficient from the mixture alone, by a head of K + 1 classes on the decoder.

    The foreground of each sample is the sample before it in the batch.
    """

    mixes_samples = True
    min_batch = 2

    def __init__(self, network: Network, config: VolumeFusionConfig) -> None:
        super().__init__(network)
        self.config = config
        network.freeze_head()
        self.head = network.new_head(config.levels + 1)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Draw coefficients, mix, predict classes; what is unknown in either volume is hidden and without loss."""
        self.check_batch(len(clean))
        levels = self.config.levels
        with torch.no_grad():
            classes = self.draw_classes((clean.shape[2], clean.shape[3], clean.shape[4]), generators)
            mixed = fuse(clean, clean.roll(1, 0), classes, levels)
            counted = None if known is None else known & known.roll(1, 0)
            if counted is not None:
                mixed = mixed.masked_fill(~counted, 0.0)
                counted = counted.any(dim=1, keepdim=True)  # by the contrasts that there are
        logits = self.predict(mixed).float()
        cross_entropy, dice = segmentation_terms(logits, classes, counted)
        pictures = {}
        if not self.training:
            told = logits.detach().argmax(dim=1, keepdim=True) / levels
            pictures = {"mixed": mixed, "coefficient": classes / levels, "told": told}
        loss = (cross_entropy + 1 - dice).mean()
        return StepOutput(
            loss,
            {"cross_entropy": cross_entropy.detach().mean(), "dice": dice.detach().mean()},
            pictures,
        )

    def draw_classes(self, shape: Shape3, generators: Sequence[torch.Generator]) -> Int[Tensor, "B 1 D H W"]:
        """Each voxel's class, 0 to K: boxes of random class 1 to K over class 0, later ones over earlier ones."""
        config = self.config
        low, high = (
            (round(share * shape[0]), round(share * shape[1]), round(share * shape[2]))
            for share in (config.side_min, config.side_max)
        )
        drawn = [_draw_boxes(config, low, high, shape, generator) for generator in generators]
        start, stop, colour = (torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True))
        classes = torch.zeros(len(drawn), 1, *shape, dtype=torch.uint8, device=start.device)
        for box in range(config.boxes_max):
            painted = inside(start[box], stop[box], shape)
            classes = torch.where(painted, colour[box].view(-1, 1, 1, 1, 1), classes)
        return classes.long()

    def predict(self, mixed: Batch) -> Float[Tensor, "B K D H W"]:
        """The logits of the classes."""
        return self.network.restore(mixed, mixed.new_zeros(len(mixed)), self.head)


def _draw_boxes(
    config: VolumeFusionConfig, low: Shape3, high: Shape3, shape: Shape3, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and stops, (boxes_max, 3), and classes, (boxes_max,), of one sample's boxes; those left out are empty."""
    u = torch.rand(1 + config.boxes_max, generator=generator, device=generator.device)
    number = config.boxes_min + whole(u[0], config.boxes_max - config.boxes_min + 1)
    left_out = torch.arange(config.boxes_max, device=generator.device) >= number
    start, stop = draw_windows(config.boxes_max, low, high, shape, generator)
    stop = torch.where(left_out[:, None], start, stop)
    return start, stop, (1 + whole(u[1:], config.levels)).to(torch.uint8)


def fuse(background: Batch, foreground: Batch, classes: Int[Tensor, "B 1 D H W"], levels: int) -> Batch:
    """alpha I_f + (1 - alpha) I_b with alpha = class / K, voxel by voxel."""
    return torch.lerp(background, foreground, (classes / levels).to(background.dtype))


def segmentation_terms(
    logits: Float[Tensor, "B K D H W"],
    classes: Int[Tensor, "B 1 D H W"],
    counted: Bool[Tensor, "B 1 D H W"] | None = None,
) -> tuple[PerSample, PerSample]:
    """Cross entropy, and the soft Dice score averaged over the classes, of each sample.

    Args:
        logits: in float32.
        classes: what is true.
        counted: False on voxels that enter neither; None for all.
    """
    log_p = logits.log_softmax(dim=1)
    cross_entropy = region_mean(-log_p.gather(1, classes), counted)
    p = log_p.exp()
    levels = torch.arange(logits.shape[1], device=classes.device).view(1, -1, 1, 1, 1)
    truth = (classes == levels).to(p.dtype)
    if counted is not None:
        p, truth = p * counted, truth * counted
    voxels = (2, 3, 4)
    both, either = (p * truth).sum(voxels), p.sum(voxels) + truth.sum(voxels)
    dice = (2 * both + SMOOTH) / (either + SMOOTH)
    return cross_entropy, dice.mean(dim=1)


register(
    "volume-fusion",
    ObjectiveSpec(
        paper="Wang et al., MIS-FM with Volume Fusion, arXiv 2306.16925, 2023",
        summary="tell by how much two volumes are mixed at each voxel",
        settings=VolumeFusionConfig(),
        build=VolumeFusion,
    ),
)
