"""Clean volume in, corrupted volume out: equations (1) to (4) as one draw and one pure application.

`draw` makes every random choice for a batch, one generator a sample, and records it; `apply` is a pure function
of the clean batch and that record. A sample's corruption depends on its own generator alone, so a batch is
exactly the stack of its single samples, and a recorded draw replays exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdae.corruption.mask import block_grid, draw_blocks, expand_blocks
from mdae.corruption.schedule import Coefficients, Schedule
from mdae.errors import ConfigError
from mdae.tensors import Batch, Mask, PerSample
from mdae.types import Shape3


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How a volume is corrupted.

    Args:
        schedule: the noise schedule (1).
        t_min, t_max: the time is uniform between them; equal values fix it.
        p_min, p_max: the mask ratio is uniform between them (3); equal values fix it, both 0 mask nothing.
        block: the edges of a mask block in voxels (2).
        per_channel: mask every channel on its own instead of all alike.
        noise_on: "visible" zeroes masked voxels and noises the visible ones, the dual corruption (4);
            "masked" noises the masked voxels and leaves the visible ones clean, as DiffMAE does.
    """

    schedule: Schedule = Schedule()
    t_min: float = 0.0
    t_max: float = 1.0
    p_min: float = 0.01
    p_max: float = 0.99
    block: Shape3 = (16, 16, 16)
    per_channel: bool = False
    noise_on: Literal["visible", "masked"] = "visible"

    def __post_init__(self) -> None:
        for name, low, high in (("t", self.t_min, self.t_max), ("p", self.p_min, self.p_max)):
            if not 0 <= low <= high <= 1:
                raise ConfigError(
                    f"{name}_min = {low} and {name}_max = {high} are no range within [0, 1]",
                    mend=f"give 0 <= {name}_min <= {name}_max <= 1",
                )
        if len(self.block) != 3 or min(self.block) < 1:
            raise ConfigError(f"mask block {self.block}", mend="give three edges of 1 voxel or more")
        if self.noise_on not in ("visible", "masked"):
            raise ConfigError(f"noise_on is {self.noise_on!r}", mend="use visible or masked")


@dataclass(frozen=True)
class CorruptionDraw:
    """Every random choice for one batch, enough to replay it.

    Attributes:
        ratio: the mask ratios p_mask, (B,).
        blocks: the masked blocks, (B, 1 or C, gD, gH, gW).
        t: the times, (B,); all 0 under a noiseless schedule.
        noise: Z, (B, C, D, H, W); None under a noiseless schedule, for which none is drawn.
    """

    ratio: PerSample
    blocks: Bool[Tensor, "B cm gD gH gW"]
    t: PerSample
    noise: Float[Tensor, "B C D H W"] | None


@dataclass(frozen=True)
class Corrupted:
    """A corrupted batch and what corrupted it.

    Attributes:
        input: X~, what the network sees, (B, C, D, H, W).
        mask: True where masked, (B, 1 or C, D, H, W).
        t: times, (B,).
        coefficients: alpha and sigma at those times, (B,) each.
    """

    input: Batch
    mask: Mask
    t: PerSample
    coefficients: Coefficients


def draw(
    config: CorruptionConfig, shape: tuple[int, int, int, int], generators: Sequence[torch.Generator]
) -> CorruptionDraw:
    """Make every random choice for a batch of volumes of one shape.

    Args:
        config: the distributions.
        shape: (C, D, H, W) of one sample.
        generators: one a sample, on the device where the volumes live.
    """
    samples = [_draw_sample(config, shape, generator) for generator in generators]
    ratio, blocks, t, noise = zip(*samples, strict=True)
    stacked_noise = None if config.schedule.noiseless else torch.stack([z for z in noise if z is not None])
    return CorruptionDraw(torch.stack(ratio), torch.stack(blocks), torch.stack(t), stacked_noise)


def _draw_sample(
    config: CorruptionConfig, shape: tuple[int, int, int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One sample's ratio, blocks, time and noise, always in this order: switching one off moves no other."""
    channels, *spatial = shape
    device = generator.device
    grid = block_grid((spatial[0], spatial[1], spatial[2]), config.block)
    ratio = _uniform(config.p_min, config.p_max, generator)  # (3)
    blocks = draw_blocks(ratio, channels if config.per_channel else 1, grid, generator)  # (2)
    if config.schedule.noiseless:
        return ratio, blocks, torch.zeros((), device=device), None
    t = _uniform(config.t_min, config.t_max, generator)
    noise = torch.randn(shape, generator=generator, device=device)
    return ratio, blocks, t, noise


def _uniform(low: float, high: float, generator: torch.Generator) -> Tensor:
    """A scalar ~ U(low, high), exactly `low` where both are equal."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device)


def apply(config: CorruptionConfig, clean: Batch, drawn: CorruptionDraw) -> Corrupted:
    """Corrupt a clean batch as drawn; pure: neither argument is changed."""
    spatial = (clean.shape[2], clean.shape[3], clean.shape[4])
    mask = expand_blocks(drawn.blocks, spatial, config.block)
    coefficients = config.schedule.at(drawn.t)
    noised = clean
    if drawn.noise is not None:
        alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in coefficients)
        noised = torch.addcmul(alpha * clean, sigma, drawn.noise)  # (1)
    if config.noise_on == "masked":
        corrupted = torch.where(mask, noised, clean)
    else:
        corrupted = noised.masked_fill(mask, 0.0)  # (4)
    return Corrupted(corrupted, mask, drawn.t, coefficients)
