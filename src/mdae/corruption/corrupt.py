"""Clean volume in, corrupted volume out: equations (1) to (4) as one draw and one pure application.

`draw` makes every random choice for a batch, one generator a sample, and records it; `apply` is a pure function
of the clean batch and that record. A sample's corruption depends on its own generator alone, so a batch is
exactly the stack of its single samples, and a recorded draw replays exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdae.corruption.foreground import foreground, foreground_blocks
from mdae.corruption.mask import block_grid, draw_blocks, draw_blocks_of_several_sizes, expand_blocks
from mdae.corruption.schedule import Coefficients, Schedule
from mdae.corruption.times import Times
from mdae.errors import ConfigError
from mdae.tensors import Batch, Mask, PerSample
from mdae.types import Shape3


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How a volume is corrupted.

    Args:
        schedule: the noise schedule (1).
        times: the distribution of the time (uniform in the paper).
        t_min, t_max: the time lies between them; equal values fix it.
        p_min, p_max: the mask ratio is uniform between them (3); equal values fix it, both 0 mask nothing.
        block: the edges of a mask block in voxels (2).
        edges: several edges in voxels, of which each sample draws one for its blocks, cubes then; none for `block`.
        per_channel: mask every channel on its own instead of all alike.
        exact_count: mask exactly the ratio's share of blocks, rounded down, instead of each with its probability.
        noise_on: "visible" zeroes masked voxels and noises the visible ones, the dual corruption (4);
            "masked" noises the masked voxels and leaves the visible ones clean, as DiffMAE does.
        fill: what stands in masked voxels under the dual corruption: "zero" (4), or "noise" ~ N(0, 1).
        foreground: mask only blocks that hold foreground, by the same ratio, and learn from no others.
        drop_channel: the probability of each channel to be hidden whole, which then counts as masked; one is always
            left of those that a sample has.
    """

    schedule: Schedule = Schedule()
    times: Times = Times()
    t_min: float = 0.0
    t_max: float = 1.0
    p_min: float = 0.01
    p_max: float = 0.99
    block: Shape3 = (16, 16, 16)
    edges: tuple[int, ...] = ()
    per_channel: bool = False
    exact_count: bool = False
    noise_on: Literal["visible", "masked"] = "visible"
    fill: Literal["zero", "noise"] = "zero"
    foreground: bool = False
    drop_channel: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("t", self.t_min, self.t_max), ("p", self.p_min, self.p_max)):
            if not 0 <= low <= high <= 1:
                raise ConfigError(
                    f"{name}_min = {low} and {name}_max = {high} are no range within [0, 1]",
                    mend=f"give 0 <= {name}_min <= {name}_max <= 1",
                )
        if len(self.block) != 3 or min(self.block) < 1:
            raise ConfigError(f"mask block {self.block}", mend="give three edges of 1 voxel or more")
        if min(self.edges, default=1) < 1:
            raise ConfigError(f"mask edges {self.edges}", mend="give edges of 1 voxel or more")
        if self.noise_on not in ("visible", "masked"):
            raise ConfigError(f"noise_on is {self.noise_on!r}", mend="use visible or masked")
        if self.fill not in ("zero", "noise"):
            raise ConfigError(f"fill is {self.fill!r}", mend="use zero or noise")
        if not 0 <= self.drop_channel < 1:
            raise ConfigError(f"drop_channel is {self.drop_channel}", mend="give 0 or more, and less than 1")
        if self.fill == "noise" and self.noise_on == "masked":
            raise ConfigError("masked voxels hold noise already", mend="use fill=zero with noise_on=masked")

    @property
    def blocks(self) -> list[Shape3]:
        """The sizes that a sample's blocks may have."""
        return [(edge, edge, edge) for edge in self.edges] or [self.block]

    @property
    def unit(self) -> Shape3:
        """The block that one element of a drawn mask stands for."""
        edge = math.gcd(*self.edges)
        return (edge, edge, edge) if self.edges else self.block


@dataclass(frozen=True)
class CorruptionDraw:
    """Every random choice for one batch, enough to replay it.

    Attributes:
        ratio: the mask ratios p_mask, (B,).
        blocks: the masked blocks, (B, 1 or C, gD, gH, gW), each of `config.unit` voxels.
        t: the times, (B,); all 0 under a noiseless schedule.
        noise: Z, (B, C, D, H, W); None under a noiseless schedule, for which none is drawn.
        choice: which of several edges each sample's blocks have, (B,); None with one size.
        filling: what stands in masked voxels, (B, C, D, H, W); None for zero.
        fate: uniform numbers, (B, C): a channel whose own is below `config.drop_channel` is dropped, unless it is the
            greatest of a sample's; None where none is.
    """

    ratio: PerSample
    blocks: Bool[Tensor, "B cm gD gH gW"]
    t: PerSample
    noise: Float[Tensor, "B C D H W"] | None
    choice: Int[Tensor, "B"] | None = None
    filling: Float[Tensor, "B C D H W"] | None = None
    fate: Float[Tensor, "B C"] | None = None


@dataclass(frozen=True)
class Corrupted:
    """A corrupted batch and what corrupted it.

    Attributes:
        input: X~, what the network sees, (B, C, D, H, W).
        mask: True where masked, (B, 1 or C, D, H, W).
        t: times, (B,).
        coefficients: alpha and sigma at those times, (B,) each.
        taught: voxels of blocks that hold foreground, from which alone is learned, (B, 1 or C, D, H, W); None for all.
        gone: channels that were dropped, (B, C, 1, 1, 1): masked, and 0 however else voxels are masked; None for none.
    """

    input: Batch
    mask: Mask
    t: PerSample
    coefficients: Coefficients
    taught: Mask | None = None
    gone: Mask | None = None


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
    ratio, blocks, t, noise, choice, filling, fate = zip(*samples, strict=True)
    return CorruptionDraw(
        torch.stack(ratio),
        torch.stack(blocks),
        torch.stack(t),
        None if config.schedule.noiseless else torch.stack(noise),
        torch.stack(choice) if config.edges else None,
        torch.stack(filling) if config.fill == "noise" else None,
        torch.stack(fate) if config.drop_channel else None,
    )


def _draw_sample(
    config: CorruptionConfig, shape: tuple[int, int, int, int], generator: torch.Generator
) -> tuple[Any, ...]:
    """One sample's ratio, blocks, time, noise, choice, filling and fate; None for what is not drawn.

    They are always drawn in this order, and blocks of several sizes after the noise: switching one off moves no
    other.
    """
    channels, device = shape[0], generator.device
    spatial = (shape[1], shape[2], shape[3])
    mask_channels = channels if config.per_channel else 1
    ratio = _uniform(config.p_min, config.p_max, generator)  # (3)
    exact = config.exact_count
    grid = block_grid(spatial, config.block)
    blocks = draw_blocks(ratio, mask_channels, grid, generator, exact=exact)  # (2)
    t, noise, choice, filling, fate = torch.zeros((), device=device), None, None, None, None
    if not config.schedule.noiseless:
        u = torch.rand((), generator=generator, device=device)
        t = config.t_min + (config.t_max - config.t_min) * config.times.quantile(u)
        noise = torch.randn(shape, generator=generator, device=device)
    if config.edges:
        choice, blocks = draw_blocks_of_several_sizes(
            ratio, mask_channels, spatial, config.edges, generator, exact=exact
        )
    if config.fill == "noise":
        filling = torch.randn(shape, generator=generator, device=device)
    if config.drop_channel:
        fate = torch.rand(channels, generator=generator, device=device)
    return ratio, blocks, t, noise, choice, filling, fate


def _uniform(low: float, high: float, generator: torch.Generator) -> Tensor:
    """A scalar ~ U(low, high), exactly `low` where both are equal."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device)


def apply(
    config: CorruptionConfig, clean: Batch, drawn: CorruptionDraw, known: Mask | None = None
) -> Corrupted:
    """Corrupt a clean batch as drawn; pure: no argument is changed.

    Args:
        config: as for the draw.
        clean: X0, (B, C, D, H, W).
        drawn: the random choices.
        known: voxels that are known at all, (B, 1 or C, D, H, W): the others are no foreground, and a channel without
            any is not there to be left. None for all.
    """
    spatial = (clean.shape[2], clean.shape[3], clean.shape[4])
    mask, taught = expand_blocks(drawn.blocks, spatial, config.unit), None
    if config.foreground:
        voxels = foreground(clean, known, per_channel=config.per_channel)
        taught = foreground_blocks(voxels, config.blocks, drawn.choice)
        mask = mask & taught
    coefficients = config.schedule.at(drawn.t)
    noised = clean
    if drawn.noise is not None:
        alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in coefficients)
        noised = torch.addcmul(alpha * clean, sigma, drawn.noise)  # (1)
    if config.noise_on == "masked":
        corrupted = torch.where(mask, noised, clean)
    elif drawn.filling is not None:
        corrupted = torch.where(mask, drawn.filling, noised)
    else:
        corrupted = noised.masked_fill(mask, 0.0)  # (4)
    gone = None
    if drawn.fate is not None:
        gone = dropped(config.drop_channel, drawn.fate, known)[:, :, None, None, None]
        corrupted, mask = corrupted.masked_fill(gone, 0.0), mask | gone
    return Corrupted(corrupted, mask, drawn.t, coefficients, taught, gone)


def dropped(probability: float, fate: Float[Tensor, "B C"], known: Mask | None = None) -> Bool[Tensor, "B C"]:
    """Which channels are hidden whole: those of a low fate, but of those that are there at all never the last.

    Args:
        probability: below which a fate is low.
        fate: uniform numbers in [0, 1).
        known: as in `apply`; of one channel for all, all are there.
    """
    there = torch.ones_like(fate, dtype=torch.bool)
    if known is not None and known.shape[1] == fate.shape[1]:
        there = known.flatten(2).any(2)
    fate = torch.where(there, fate, -1.0)
    return (fate < probability) & (fate < fate.amax(1, keepdim=True))
