"""The distortions of Models Genesis: drawn for every sample, recorded, applied purely to volumes scaled to [0, 1].

Zhou et al., Models Genesis, Medical Image Analysis 2021, section 3.2: local shuffling, a monotone curve of the
intensities, and noise inside or outside of a union of windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdae.errors import ConfigError
from mdae.objectives.windows import draw_windows, inside
from mdae.tensors import Batch, PerSample
from mdae.types import Shape3

KNOTS = 1024  # of the piecewise linear curve
PAINTED = 5  # windows at most that are painted in or left out
ANOTHER = 0.95  # probability of one more such window
MARGIN = 3  # voxels that they keep from the volume's ends


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """How often volumes are distorted, and how; the defaults are published.

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


@dataclass(frozen=True)
class Distortion:
    """What is done to each sample of a batch.

    Attributes:
        source: the voxel whose value each voxel takes, (B, D * H * W), counted in the volume's order.
        control: the two inner control points of the curve, (B, 2, 2): point, then input and output.
        bent: (B,) bool, whether the curve is applied.
        inverted: (B,) bool, whether it falls instead of rising.
        painted: the voxels that noise replaces, (B, 1, D, H, W) bool.
        noise: uniform in [0, 1), (B, C, D, H, W).
    """

    source: Int[Tensor, "B N"]
    control: Float[Tensor, "B 2 2"]
    bent: Bool[Tensor, "B"]
    inverted: Bool[Tensor, "B"]
    painted: Bool[Tensor, "B 1 D H W"]
    noise: Batch


def draw(
    config: DistortionConfig, shape: tuple[int, int, int, int], generators: Sequence[torch.Generator]
) -> Distortion:
    """Draw for each sample (C, D, H, W) from its own generator, on the generator's device."""
    samples = [_draw_sample(config, shape, generator) for generator in generators]
    return Distortion(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def _draw_sample(
    config: DistortionConfig, shape: tuple[int, int, int, int], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One sample's parts, in the order of `Distortion`; what may be left out is drawn last."""
    device = generator.device
    spatial = (shape[1], shape[2], shape[3])
    u = torch.rand(9, generator=generator, device=device)
    painted = _draw_painted(u[7] < config.paint, u[8] < config.outside, spatial, generator)
    noise = torch.rand(shape, generator=generator, device=device)
    source = _draw_source(u[6] < config.shuffle, config.num_windows, spatial, generator)
    return source, u[:4].view(2, 2), u[4] < config.nonlinear, u[5] < 0.5, painted, noise


def _draw_source(
    shuffled: Tensor, num_windows: int, shape: Shape3, generator: torch.Generator
) -> Int[Tensor, "N"]:
    """Where each voxel's value comes from; itself, unless the sample is shuffled.

    A GPU shuffles either way and then chooses, because to ask it is to wait for it. A CPU has nothing to wait for.
    """
    itself = torch.arange(shape[0] * shape[1] * shape[2], device=generator.device)
    if generator.device.type == "cpu" and not shuffled:
        return itself
    return torch.where(shuffled, draw_shuffle(num_windows, shape, generator), itself)


def draw_shuffle(num_windows: int, shape: Shape3, generator: torch.Generator) -> Int[Tensor, "N"]:
    """Shuffle the voxels inside each of many small windows, sides of up to a tenth of the volume's.

    Each window permutes the original voxels; where windows overlap, the last one counts.

    Returns:
        For each voxel the one whose value it takes, in the volume's order.
    """
    device = generator.device
    tenth = (shape[0] // 10, shape[1] // 10, shape[2] // 10)
    start, stop = draw_windows(num_windows, (1, 1, 1), tenth, shape, generator)
    size = stop - start
    # All windows' voxels in one list, window by window; its end belongs to no window.
    volume = size.prod(dim=1)
    end = volume.cumsum(0)
    entries = torch.arange(_room(num_windows, tenth), device=device)
    order = torch.searchsorted(end, entries, right=True)
    owner = order.clamp_max(num_windows - 1)
    nth = entries - (end - volume)[owner]
    _, high, wide = size[owner].unbind(1)
    offset = torch.stack([nth // (high * wide), nth // wide % high, nth % wide], dim=1)
    d, h, w = (start[owner] + offset).unbind(1)
    number = shape[0] * shape[1] * shape[2]
    voxel = torch.where(order < num_windows, (d * shape[1] + h) * shape[2] + w, number)
    # The same list with each window's voxels in random order: sorted by window, then by 40 random bits.
    bits = torch.randint(2**40, (len(owner),), generator=generator, device=device)
    shuffled = voxel[((order << 40) | bits).argsort()]
    last = torch.full((number + 1,), -1, device=device).scatter_reduce(0, voxel, entries, "amax")[:number]
    return torch.where(last < 0, torch.arange(number, device=device), shuffled[last])


def _room(num_windows: int, largest: Shape3) -> int:
    """A list's length that holds all windows' voxels, without asking the device how many there are.

    Twelve standard deviations above their mean number, and four of the largest windows; never more than there can be.
    """
    sides = [max(1, side) for side in largest]
    most = math.prod(sides)
    mean = math.prod((side + 1) / 2 for side in sides)
    variance = math.prod((side + 1) * (2 * side + 1) / 6 for side in sides) - mean**2
    return min(
        num_windows * most, math.ceil(num_windows * mean + 12 * math.sqrt(num_windows * variance)) + 4 * most
    )


def _draw_painted(
    paint: Tensor, outside: Tensor, shape: Shape3, generator: torch.Generator
) -> Bool[Tensor, "1 D H W"]:
    """The voxels that noise replaces.

    In-painting: inside of up to five windows, sides of a sixth to a third of the volume's. Out-painting: outside of
    one to five windows, sides of three to four sevenths. Each further window comes with probability 0.95.
    """
    sixth, third, three, four = (
        (shape[0] * up // down, shape[1] * up // down, shape[2] * up // down)
        for up, down in ((1, 6), (1, 3), (3, 7), (4, 7))
    )
    # What is left out of the volume is drawn, of three to four sevenths, so a window is what remains.
    kept_low, kept_high = ((shape[0] - cut[0], shape[1] - cut[1], shape[2] - cut[2]) for cut in (four, three))
    inner = draw_windows(PAINTED, sixth, third, shape, generator, margin=MARGIN)
    outer = draw_windows(PAINTED, kept_low, kept_high, shape, generator, margin=MARGIN)
    more = torch.rand(PAINTED, generator=generator, device=generator.device) < ANOTHER
    more[0] |= outside
    there = more.cumprod(0).bool()
    union = torch.zeros(1, *shape, dtype=torch.bool, device=generator.device)
    for n in range(PAINTED):
        start, stop = (torch.where(outside, b[n], a[n])[None] for a, b in zip(inner, outer, strict=True))
        union |= inside(start, stop, shape)[0] & there[n]
    return (union ^ outside) & paint


def bezier_curve(
    control: Float[Tensor, "B 2 2"], inverted: Bool[Tensor, "B"]
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Inputs, rising, and outputs of the cubic Bezier curve from (0, 0) to (1, 1) at equal steps of its parameter.

    B(s) = 3 (1 - s)^2 s P1 + 3 (1 - s) s^2 P2 + s^3 (1, 1). With control points in the unit square both coordinates
    rise with s, hence output rises with input. An inverted curve takes its outputs in the opposite order.
    """
    s = torch.linspace(0, 1, KNOTS, device=control.device)[None, :, None]
    first, second = control[:, 0, None, :], control[:, 1, None, :]
    points = 3 * (1 - s) ** 2 * s * first + 3 * (1 - s) * s**2 * second + s**3
    inputs, outputs = points.unbind(-1)
    return inputs.contiguous(), torch.where(inverted[:, None], outputs.flip(1), outputs)


def along_curve(
    values: Float[Tensor, "B N"], inputs: Float[Tensor, "B K"], outputs: Float[Tensor, "B K"]
) -> Float[Tensor, "B N"]:
    """Linear interpolation of each sample's own curve at its values."""
    above = torch.searchsorted(inputs, values, right=True).clamp(1, KNOTS - 1)
    below = above - 1
    x0, x1, y0, y1 = (c.gather(1, i) for c in (inputs, outputs) for i in (below, above))
    share = ((values - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)
    return y0 + share * (y1 - y0)


def apply(distortion: Distortion, unit: Batch) -> Batch:
    """Shuffle, then bend, then paint volumes (B, C, D, H, W) of values in [0, 1]; pure."""
    source = distortion.source[:, None].expand(-1, unit.shape[1], -1)
    shuffled = unit.flatten(2).gather(2, source).flatten(1)
    bent = along_curve(shuffled, *bezier_curve(distortion.control, distortion.inverted))
    values = torch.where(distortion.bent[:, None], bent, shuffled).view_as(unit)
    return torch.where(distortion.painted, distortion.noise, values)


def to_unit(volumes: Batch) -> tuple[Batch, PerSample, PerSample]:
    """Each channel of each sample scaled to [0, 1], with its lowest value and its extent, (B, C, 1, 1, 1)."""
    voxels = (2, 3, 4)
    low = volumes.amin(voxels, keepdim=True)
    extent = (volumes.amax(voxels, keepdim=True) - low).clamp_min(1e-6)
    return (volumes - low) / extent, low, extent
