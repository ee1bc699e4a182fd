"""Swin UNETR's pre-training (Tang et al., CVPR 2022): inpainting, rotation and contrast at once, on our encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.networks.blocks import Stack
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.heads import Projection, nt_xent
from mdae.objectives.regions import region_mean
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.objectives.views import quarter_turned
from mdae.tensors import Batch, Mask, constant
from mdae.types import Shape3

BOXES = 192  # cut out of a view at most; of the published sizes they hold half of it
NUMBERS = 2 + 6 * BOXES  # random numbers a view: turns, share, and each box's starts and sides


@dataclass(frozen=True, kw_only=True)
class SwinUNETRConfig:
    """Settings of Swin UNETR's pre-training.

    Args:
        dropped: largest share of a view's voxels that is cut out; the share of a view is uniform below it. Boxes are
            cut until their volumes, overlaps counted twice, reach it, or there are `BOXES` of them.
        box_min, box_max: sides of a box that is cut out, as shares of the view's.
        temperature, projection: of the contrastive loss.
        lambda_inpaint, lambda_contrast, lambda_rotate: the weights of the three losses.
    """

    dropped: float = 0.3
    box_min: float = 0.05
    box_max: float = 0.25
    temperature: float = 0.5
    projection: int = 512
    lambda_inpaint: float = 1.0
    lambda_contrast: float = 1.0
    lambda_rotate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.dropped <= 1 or not 0 < self.box_min <= self.box_max <= 1:
            raise ConfigError(
                f"dropped {self.dropped}, boxes of {self.box_min} to {self.box_max}",
                mend="give a share above 0, up to 1, and box sides above 0, up to 1, in order",
            )
        if self.temperature <= 0 or self.projection < 1:
            raise ConfigError(
                f"temperature {self.temperature} or projection {self.projection}",
                mend="give a temperature above 0 and a width of 1 or more",
            )
        if min(self.lambda_inpaint, self.lambda_contrast, self.lambda_rotate) < 0:
            raise ConfigError("a negative lambda", mend="give weights of 0 or more")


@dataclass(frozen=True)
class Drawn:
    """What is done to each sample for one view.

    Attributes:
        turns: (B,), 0 to 3 quarters about the last axis.
        holes: (B, 1, D, H, W) bool, what is cut out.
        noise: (B, C, D, H, W), standard normal, put into the holes.
    """

    turns: Tensor
    holes: Tensor
    noise: Tensor


def draw(settings: SwinUNETRConfig, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Drawn:
    """Draw a view of each sample, shaped (C, D, H, W), from its own generator, on the generator's device."""
    u = torch.stack([torch.rand(NUMBERS, generator=g, device=g.device) for g in generators])
    noise = torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])
    patch = (shape[1], shape[2], shape[3])
    starts, ends = boxes(settings, u[:, 2:].view(-1, BOXES, 2, 3), patch)
    holes = cut_out(starts, ends, settings.dropped * u[:, 1], patch)
    return Drawn((4 * u[:, 0]).long(), holes, noise)


def boxes(settings: SwinUNETRConfig, u: Tensor, patch: Shape3) -> tuple[Tensor, Tensor]:
    """First voxels of boxes and those after their last, (B, K, 3), from uniform numbers (B, K, 2, 3).

    Each side is uniform between the settings' bounds; each place is uniform where the smallest box would fit, larger
    ones are cut at the border.
    """
    sides = constant(patch, torch.int64, u.device)
    least = (settings.box_min * sides).round().clamp_min(1)
    most = torch.maximum((settings.box_max * sides).round(), least)
    starts = (u[:, :, 0] * (sides - least + 1)).floor()
    ends = starts + least + (u[:, :, 1] * (most - least + 1)).floor()
    return starts, torch.minimum(ends, sides)


def cut_out(starts: Tensor, ends: Tensor, share: Tensor, patch: Shape3) -> Mask:
    """The union (B, 1, D, H, W) of as many boxes (B, K, 3), in order, as reach a share (B,) of the voxels."""
    volumes = (ends - starts).prod(dim=2)
    before = volumes.cumsum(dim=1) - volumes
    kept = before < share[:, None] * (patch[0] * patch[1] * patch[2])
    inside = []
    for axis, length in enumerate(patch):
        places = torch.arange(length, device=starts.device)
        inside.append((places >= starts[:, :, axis, None]) & (places < ends[:, :, axis, None]))
    in_x, in_y, in_z = (part.float() for part in (inside[0] & kept[:, :, None], inside[1], inside[2]))
    return torch.einsum("bkx,bky,bkz->bxyz", in_x, in_y, in_z)[:, None] > 0.5


class Reconstruction(nn.Module):
    """From the deepest stage alone to the volume: convolutions that mirror the encoder's, each upsampled."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        coarse_to_fine, strides = network.widths[::-1], network.strides[::-1]
        self.stages = nn.ModuleList(
            Stack(before, after)
            for before, after in zip(coarse_to_fine[:-1], coarse_to_fine[1:], strict=True)
        )
        self.factors = [before // after for before, after in zip(strides[:-1], strides[1:], strict=True)]
        self.finest = strides[-1]
        self.last = nn.Conv3d(coarse_to_fine[-1], network.in_channels, 1)

    def forward(self, x: Batch) -> Batch:
        for stage, factor in zip(self.stages, self.factors, strict=True):
            x = F.interpolate(stage(x), scale_factor=factor, mode="trilinear")
        volume: Tensor = self.last(x)
        return (
            F.interpolate(volume, scale_factor=self.finest, mode="trilinear") if self.finest > 1 else volume
        )


class SwinUNETR(Objective):
    """Two views a sample, turned by quarters and with boxes cut out: fill in, tell the turn, find the other view.

    All three heads see the deepest stage alone, as in the paper: inpainting through upsampling without the U-Net's
    skips, turn and contrast through one matrix each on its mean over voxels (the authors' code reads single voxels of
    it). Turns are about the last axis, so crops are cut to a square in its plane. Boxes are filled with noise of the
    volumes' own unit variance. Negatives are the views of the other samples that the device takes at once; samples on
    other devices or in other micro-batches are not compared.
    """

    needs = "stages"
    mixes_samples: ClassVar[bool] = True
    min_batch: ClassVar[int] = 2

    def __init__(self, network: Network, settings: SwinUNETRConfig) -> None:
        super().__init__(network)
        self.settings = settings
        deepest = network.widths[-1]
        self.inpaint = Reconstruction(network)
        self.rotate = Projection(deepest, 4)
        self.contrast = Projection(deepest, settings.projection)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Two views of each sample and the three losses on them; unknown voxels are 0 and need not be filled in."""
        self.check_batch(len(clean))
        settings = self.settings
        with torch.no_grad():
            clean, known = square(clean), None if known is None else square(known)
            drawn = [draw(settings, tuple(clean.shape[1:]), generators) for _ in range(2)]
            turns, holes, noise = (
                torch.cat([getattr(view, name) for view in drawn]) for name in ("turns", "holes", "noise")
            )
            target = quarter_turned(clean.repeat(2, 1, 1, 1, 1), turns)
            seen = torch.where(holes, noise, target)
            sure = None if known is None else quarter_turned(known.repeat(2, 1, 1, 1, 1), turns)
            if sure is not None:
                target, seen = target.masked_fill(~sure, 0.0), seen.masked_fill(~sure, 0.0)
        deepest = self.network.stages(seen)[-1]
        filled, mean = self.inpaint(deepest), deepest.float().mean(dim=(2, 3, 4))
        inpaint = region_mean((filled.float() - target).abs(), sure).mean()
        rotate = F.cross_entropy(self.rotate(mean), turns)
        first, second = self.contrast(mean).chunk(2)
        contrast, _ = nt_xent(first, second, settings.temperature)
        loss = (
            settings.lambda_inpaint * inpaint
            + settings.lambda_contrast * contrast
            + settings.lambda_rotate * rotate
        )
        logs = {"inpaint": inpaint.detach(), "contrast": contrast.detach(), "rotate": rotate.detach()}
        pictures = {}
        if not self.training:
            volumes = {"turned": target, "cut": seen, "filled": filled.detach()}
            pictures = {name: volume[: len(clean)] for name, volume in volumes.items()}
        return StepOutput(loss, logs, pictures)


def square(x: Tensor) -> Tensor:
    """Volumes (B, C, D, H, W) cut to the middle of the longer of their first two sides, so that both are as long."""
    side = min(x.shape[2], x.shape[3])
    first, second = ((length - side) // 2 for length in x.shape[2:4])
    return x[:, :, first : first + side, second : second + side]


register(
    "swinunetr",
    ObjectiveSpec(
        paper="Tang et al., Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis, CVPR 2022",
        summary="fill in what is cut out, tell by how many quarters a view is turned, find the other view of a crop",
        settings=SwinUNETRConfig(),
        build=SwinUNETR,
    ),
)
