"""VoCo (Wu et al., CVPR 2024): a region's place is told by its likeness to base regions that tile the crop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.heads import Projection, pooled
from mdae.objectives.registry import ObjectiveSpec, register
from mdae.objectives.views import quarter_turned
from mdae.tensors import Batch, Mask, constant
from mdae.types import Shape3

CLOSE = 1e-6  # keeps the logarithm of (3) finite where prediction and label are as far apart as can be


@dataclass(frozen=True, kw_only=True)
class VoCoConfig:
    """Settings of VoCo.

    Args:
        grid: base regions along each axis. The paper cuts slabs four times as wide as thick into 4 x 4 x 1 cubes; a
            cube is cut into 3 x 3 x 3, the nearest number of cubes.
        targets: regions at random places whose place is to be told.
        flip: probability that a region is mirrored, along each axis on its own.
        turn: probability that it is turned by one to three quarters about the last axis.
        width: of the projection's hidden layers and of the space where regions are compared.
        lambda_base: weight of the term that keeps base regions apart.
    """

    grid: Shape3 = (3, 3, 3)
    targets: int = 4
    flip: float = 0.2
    turn: float = 0.2
    width: int = 2048
    lambda_base: float = 1.0

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or math.prod(self.grid) < 2 or self.targets < 1 or self.width < 1:
            raise ConfigError(
                f"grid {self.grid}, {self.targets} targets, width {self.width}",
                mend="give two base regions or more, one target or more, and a width of 1 or more",
            )
        if not 0 <= self.flip <= 1 or not 0 <= self.turn <= 1 or self.lambda_base < 0:
            raise ConfigError(
                f"flip {self.flip}, turn {self.turn}, lambda_base {self.lambda_base}",
                mend="give probabilities from 0 to 1 and a weight of 0 or more",
            )


@dataclass(frozen=True)
class Regions:
    """Regions of one size in a batch's crops, R of each: first the base regions, then the targets.

    Attributes:
        starts: (B, R, 3), their first voxels.
        flips: (B, R, 3) bool, along which axes each is mirrored.
        turns: (B, R), 0 to 3 quarters about the last axis.
    """

    starts: Tensor
    flips: Tensor
    turns: Tensor


def region_side(grid: Shape3, patch: Shape3) -> Shape3:
    """The sides of a region in voxels: those of a cell of the grid; `ConfigError` for a crop that has no such cells."""
    x, y, z = (length // number for length, number in zip(patch, grid, strict=True))
    if min(x, y, z) < 1:
        raise ConfigError(
            f"a crop of {patch} has no {grid} regions", mend="use a larger --patch or fewer regions"
        )
    return x, y, z


def draw(settings: VoCoConfig, patch: Shape3, generators: Sequence[torch.Generator]) -> Regions:
    """Lay the grid in the middle of each crop and draw the rest from the sample's own generator, on its device.

    Targets lie anywhere within the grid, so that the shares of their overlaps with base regions sum to 1.
    """
    device = generators[0].device
    number = math.prod(settings.grid) + settings.targets
    u = torch.stack([torch.rand(number, 8, generator=g, device=g.device) for g in generators])
    side = constant(region_side(settings.grid, patch), torch.int64, device)
    cells = constant(tuple(itertools.product(*map(range, settings.grid))), torch.int64, device)
    room = side * (constant(settings.grid, torch.int64, device) - 1)
    base = (side * cells).expand(len(generators), -1, -1)
    target = (u[:, len(cells) :, :3] * (room + 1)).long()
    origin = (constant(patch, torch.int64, device) - room - side) // 2
    quarters = 1 + (3 * u[:, :, 7]).long()
    return Regions(
        starts=origin + torch.cat([base, target], dim=1),
        flips=u[:, :, 3:6] < settings.flip,
        turns=torch.where(u[:, :, 6] < settings.turn, quarters, 0),
    )


def overlaps(
    base: Int[Tensor, "B n 3"], target: Int[Tensor, "B m 3"], side: Shape3
) -> Float[Tensor, "B m n"]:
    """The share of each target's voxels that lies in each base region, from their first voxels."""
    apart = (target[:, :, None] - base[:, None]).abs()
    sides = constant(side, torch.int64, base.device)
    return ((sides - apart).clamp_min(0) / sides).prod(dim=-1)


def fitting_side(side: Shape3, stride: int) -> Shape3:
    """The nearest sides that a network of this stride takes, at least one voxel and not a single one at its end."""
    x, y, z = (max(1, round(length / stride)) * stride for length in side)
    return (2 * x, 2 * y, 2 * z) if x == y == z == stride else (x, y, z)


def cut(clean: Batch, regions: Regions, side: Shape3, size: Shape3) -> Float[Tensor, "BR C d h w"]:
    """The regions, sample by sample, stretched to `size` if their sides differ from it, then mirrored and turned.

    They are turned only if `size` is square in the plane of the turn.
    """
    b, r = regions.turns.shape
    places = [
        regions.starts[:, :, axis, None] + torch.arange(length, device=clean.device)
        for axis, length in enumerate(side)
    ]
    samples = torch.arange(b, device=clean.device).view(-1, 1, 1, 1, 1)
    x, y, z = places[0][..., None, None], places[1][:, :, None, :, None], places[2][:, :, None, None, :]
    cut_out = clean.movedim(1, -1)[samples, x, y, z].flatten(0, 1).movedim(-1, 1)
    if size != side:
        cut_out = F.interpolate(cut_out, size, mode="trilinear")
    for axis in range(3):
        chosen = regions.flips[:, :, axis].reshape(b * r, 1, 1, 1, 1)
        cut_out = torch.where(chosen, cut_out.flip(2 + axis), cut_out)
    return quarter_turned(cut_out, regions.turns.flatten()) if size[0] == size[1] else cut_out


def position_loss(
    target: Float[Tensor, "B m P"], base: Float[Tensor, "B n P"], label: Float[Tensor, "B m n"]
) -> Tensor:
    """Equations (1) to (3): -log(1 - |y - l|), the mean over targets, base regions and samples.

    The prediction l is the cosine of target and base, 0 where it is negative so that it lies in [0, 1] as y does. No
    gradient flows into the base regions, which stand for the classes.
    """
    prediction = F.cosine_similarity(target[:, :, None], base.detach()[:, None], dim=-1).clamp_min(0)
    return -torch.log(1 - (label - prediction).abs() + CLOSE).mean()


def base_loss(base: Float[Tensor, "B n P"]) -> Tensor:
    """Equation (5): the mean absolute cosine of two different base regions of a sample, then over samples."""
    n = base.shape[1]
    similarity = F.cosine_similarity(base[:, :, None], base[:, None], dim=-1).abs()
    return similarity.triu(diagonal=1).sum(dim=(1, 2)).mean() * 2 / (n * (n - 1))


class VoCo(Objective):
    """Base regions that tile the crop, targets at random places in it, and how much each target overlaps each base.

    Regions are a cell of the grid in size, whatever the crop; each is mirrored and turned on its own. They are
    stretched, as in the authors' code, where their sides are no multiple of the network's stride. The representation
    is the mean over voxels of every stage, as `embed` returns it and as the authors project it. The projection
    standardises its hidden units over the regions of one crop, where the authors take those of the whole batch: a
    sample's loss then depends on that sample alone, on any number of devices. The paper has no moving-average teacher;
    the authors' later code does.
    """

    needs = "stages"

    def __init__(self, network: Network, settings: VoCoConfig) -> None:
        super().__init__(network)
        self.settings = settings
        width = settings.width
        self.project = Projection(sum(network.widths), width, width, width, normalise=True)

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Cut the regions, embed them, and compare targets with base regions and these with each other."""
        patch = (clean.shape[2], clean.shape[3], clean.shape[4])
        num_base = math.prod(self.settings.grid)
        with torch.no_grad():
            clean = clean if known is None else clean.masked_fill(~known, 0.0)
            side = region_side(self.settings.grid, patch)
            regions = draw(self.settings, patch, generators)
            label = overlaps(regions.starts[:, :num_base], regions.starts[:, num_base:], side)
            views = cut(clean, regions, side, fitting_side(side, self.network.stride))
        features = pooled(self.network.stages(views))
        z = self.project(features.view(*regions.turns.shape, -1))
        base, target = z[:, :num_base], z[:, num_base:]
        position, apart = position_loss(target, base, label), base_loss(base)
        pictures = {} if self.training else {"clean": clean}
        return StepOutput(
            position + self.settings.lambda_base * apart,
            {"position": position.detach(), "base": apart.detach()},
            pictures,
        )


register(
    "voco",
    ObjectiveSpec(
        paper="Wu et al., VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework, CVPR 2024",
        summary="tell how much a region at a random place overlaps each of those that tile the crop",
        settings=VoCoConfig(),
        build=VoCo,
    ),
)
