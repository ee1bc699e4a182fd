"""Augmented views of crops on the device: drawn from each sample's own generator, then applied to the batch, purely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdae.data import augment
from mdae.errors import ConfigError
from mdae.options import AugmentOptions
from mdae.tensors import Batch, Mask, PerSample

NUMBERS = 12  # random numbers a view: share, 3 aspects, 3 places, 3 choices, blur, noise
RADIUS = 3  # voxels of the blur's kernel to each side: three times the widest sigma


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a view differs from its crop.

    Args:
        share_min, share_max: of the crop's volume that a view shows, stretched to the crop's shape.
        aspect: largest ratio of its sides, relative to the crop's.
        flip: probability of mirroring, along each axis on its own.
        recolour: probability that intensities change.
        gain, shift, gamma: how much they do, as in `AugmentOptions`.
        blur: probability of a Gaussian blur.
        sigma_min, sigma_max: its width in voxels.
        noise: probability of Gaussian noise.
        noise_max: its largest standard deviation.
    """

    share_min: float = 0.08
    share_max: float = 1.0
    aspect: float = 4 / 3
    flip: float = 0.5
    recolour: float = 0.8
    gain: float = 0.8
    shift: float = 0.8
    gamma: float = 0.5
    blur: float = 0.5
    sigma_min: float = 0.1
    sigma_max: float = 1.0
    noise: float = 0.1
    noise_max: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.share_min <= self.share_max <= 1 or self.aspect < 1:
            raise ConfigError(
                f"views of {self.share_min} to {self.share_max} of a crop, sides up to {self.aspect} to 1",
                mend="give shares above 0, up to 1, in order, and an aspect of 1 or more",
            )
        for name in ("recolour", "blur", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give a probability, 0 to 1")
        if not 0 < self.sigma_min <= self.sigma_max <= RADIUS / 3 or self.noise_max < 0:
            raise ConfigError(
                f"blur of {self.sigma_min} to {self.sigma_max} voxels, noise up to {self.noise_max}",
                mend=f"give widths above 0, up to {RADIUS / 3:g}, in order, and noise of 0 or more",
            )
        self.augment()

    def augment(self) -> AugmentOptions:
        """Flips and intensities, which crops have in common with views; it checks them."""
        return AugmentOptions(flip=self.flip, gain=self.gain, shift=self.shift, gamma=self.gamma)


@dataclass(frozen=True)
class View:
    """What is done to each sample of a batch.

    Attributes:
        start, side: (B, 3), of the box that is shown, as shares of the crop's sides.
        augmentation: flips and intensities.
        sigma: (B,), of the blur in voxels; 0 for none.
        noise: (B, C, D, H, W), added; 0 for none.
    """

    start: Tensor
    side: Tensor
    augmentation: augment.Augmentation
    sigma: Tensor
    noise: Tensor


def draw_view(options: ViewOptions, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> View:
    """Draw a view of each sample, shaped (C, D, H, W), from its own generator, on the generator's device."""
    u = torch.stack([torch.rand(NUMBERS, generator=g, device=g.device) for g in generators])
    noise = torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])
    drawn = augment.draw(options.augment(), generators)
    same = u[:, 7] >= options.recolour
    share = _between(options.share_min, options.share_max, u[:, :1])
    stretch = (u[:, 1:4] - 0.5) * math.log(options.aspect)  # no two differ by more than the logarithm
    side = (share.log() / 3 + stretch - stretch.mean(dim=1, keepdim=True)).exp().clamp_max(1.0)
    sigma = _between(options.sigma_min, options.sigma_max, u[:, 9])
    level = torch.where(u[:, 10] < options.noise, options.noise_max * u[:, 11], 0.0)
    return View(
        start=u[:, 4:7] * (1 - side),
        side=side,
        augmentation=replace(
            drawn,
            gain=drawn.gain.masked_fill(same, 1.0),
            shift=drawn.shift.masked_fill(same, 0.0),
            gamma=drawn.gamma.masked_fill(same, 1.0),
        ),
        sigma=torch.where(u[:, 8] < options.blur, sigma, 0.0),
        noise=noise * level.view(-1, 1, 1, 1, 1),
    )


def _between(low: float, high: float, u: Tensor) -> Tensor:
    """Uniform numbers between two bounds from uniform ones in [0, 1)."""
    return low + (high - low) * u


def apply_view(view: View, clean: Batch, known: Mask | None, options: ViewOptions) -> Batch:
    """A view of each sample, of the samples' own shape.

    Args:
        view: what to do.
        clean: the crops, 0 where they are unknown.
        known: False on voxels that nobody knows; the view is 0 wherever they have a part in it. None if all are known.
        options: those that were drawn from.
    """
    channels = clean.shape[1]
    stacked = clean if known is None else torch.cat([clean, known.to(clean.dtype)], dim=1)
    shown = resized_boxes(stacked, view.start, view.side)
    sure = None if known is None else shown[:, channels:] > augment.KNOWN
    shown, sure = augment.apply(
        view.augmentation,
        shown[:, :channels],
        sure,
        options=options.augment(),
        patch=(clean.shape[2], clean.shape[3], clean.shape[4]),
        spacing_mm=(1.0, 1.0, 1.0),  # nothing turns
    )
    shown = blurred(shown, view.sigma) + view.noise
    return shown if sure is None else shown.masked_fill(~sure, 0.0)


def resized_boxes(crops: Batch, start: Float[Tensor, "B 3"], side: Float[Tensor, "B 3"]) -> Batch:
    """A box of each crop, stretched to the crop's shape by one trilinear sampling; shares of the crop's sides."""
    shape = crops.shape[2:]
    places = torch.empty(len(crops), *shape, 3, device=crops.device)
    for axis, length in enumerate(shape):
        middles = (torch.arange(length, device=crops.device) + 0.5) / length
        along = 2 * (start[:, axis, None] + side[:, axis, None] * middles) - 1
        places[..., 2 - axis] = along.view(-1, *(length if other == axis else 1 for other in range(3)))
    return F.grid_sample(crops, places, mode="bilinear", padding_mode="border", align_corners=False)


def blurred(x: Batch, sigma: PerSample) -> Batch:
    """Each sample convolved with a Gaussian of its own width in voxels, `RADIUS` / 3 at most; 0 changes nothing."""
    b, c = x.shape[:2]
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)  # 1e-3 voxels: a 1 and zeros
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)
    rows = x.reshape(1, b * c, *x.shape[2:])
    with torch.autocast(x.device.type, enabled=False):
        for axis in range(3):
            size = [2 * RADIUS + 1 if other == axis else 1 for other in range(3)]
            pad = [RADIUS if other == axis else 0 for other in (2, 2, 1, 1, 0, 0)]
            rows = F.conv3d(F.pad(rows, pad, mode="replicate"), kernel.view(b * c, 1, *size), groups=b * c)
    return rows.view_as(x)


def quarter_turned(x: Float[Tensor, "N C D D W"], turns: Int[Tensor, "N"]) -> Float[Tensor, "N C D D W"]:
    """Each volume turned by 0 to 3 quarters in the plane of its first two axes, which are of one length.

    As `numpy.rot90` turns, from the first axis towards the second; the number of turns never leaves the device.
    """
    turns = turns.view(-1, 1, 1, 1, 1)
    x = torch.where(turns % 2 == 1, x.transpose(2, 3), x)
    x = torch.where((turns == 1) | (turns == 2), x.flip(2), x)
    return torch.where((turns == 2) | (turns == 3), x.flip(3), x)
