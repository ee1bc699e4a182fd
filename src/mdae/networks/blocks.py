"""The pieces of the residual U-Net: convolution, instance normalisation with FiLM, residual block, FiLM itself.

Parameter names are those of dynamic-network-architectures, so that weights travel to nnU-Net and nnssl unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.tensors import Batch, PerSample

NORM_EPS = 1e-5
NEGATIVE_SLOPE = 0.01
FEW_CHANNELS = (
    16  # up to here oneDNN is faster on channels-last volumes, copies included: 1.8 times at 8 channels
)


class Modulation(NamedTuple):
    """FiLM's parameters for one normalisation at the batch's times, (B, C) each; both 0 are the identity (6)."""

    gamma: Tensor
    beta: Tensor


def modulated_instance_norm(
    x: Batch, weight: Float[Tensor, "C"], bias: Float[Tensor, "C"], film: Modulation | None
) -> Batch:
    """Instance normalisation and FiLM (6) in one pass: `(norm(x) * weight + bias) * (gamma + 1) + beta`.

    FiLM is affine per channel and so is the end of the normalisation, hence both are one affine map per sample
    and channel. Laying the batch into the channel axis lets the ordinary kernel apply it: conditioning costs no
    pass over the voxels. Outside of training the same two lines are the fold (see `fold_film`).
    """
    b, c = x.shape[:2]
    if film is None:
        scale, shift = weight.repeat(b), bias.repeat(b)
    else:
        scale = (weight * (film.gamma + 1)).flatten()
        shift = (bias * (film.gamma + 1) + film.beta).flatten()
    rows = x.reshape(1, b * c, *x.shape[2:])
    if x.is_cuda:  # group_norm leaves bfloat16 under autocast there, batch_norm does not
        rows = F.batch_norm(rows, None, None, scale, shift, training=True, eps=NORM_EPS)
    else:
        rows = F.group_norm(rows, b * c, scale, shift, eps=NORM_EPS)
    return rows.view_as(x)


class InstanceNorm(nn.Module):
    """Affine instance normalisation over the voxels of each sample and channel, FiLM applied on the way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Batch, film: Modulation | None = None) -> Batch:
        return modulated_instance_norm(x, self.weight, self.bias, film)

    @torch.no_grad()
    def fold_film(self, film: Modulation) -> None:
        """Take FiLM at one fixed time, (1, C), into the weight and bias: exact, at no cost afterwards."""
        gain = film.gamma[0] + 1
        self.weight.mul_(gain)
        self.bias.mul_(gain).add_(film.beta[0])


class ConvNorm(nn.Module):
    """Convolution and instance normalisation, then optionally leaky ReLU.

    The normalisation subtracts each channel's mean and with it any bias of the convolution. A bias is kept for
    the sake of the key layout, frozen, and left out of the computation: the same map, one pass less each way.
    """

    def __init__(
        self, in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1, bias: bool, act: bool
    ):
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels, channels, kernel, stride=stride, padding=(kernel - 1) // 2, bias=bias
        )
        if self.conv.bias is not None:
            self.conv.bias.requires_grad_(False)
        self.norm = InstanceNorm(channels)
        self.act = act

    def forward(self, x: Batch, film: Modulation | None = None) -> Batch:
        x = self.norm(self.convolve(x), film)
        return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True) if self.act else x

    def convolve(self, x: Batch) -> Batch:
        """The convolution alone, without its bias."""
        conv, weight = self.conv, self.conv.weight
        if x.device.type == "cpu" and max(weight.shape[:2]) <= FEW_CHANNELS:
            x = x.contiguous(memory_format=torch.channels_last_3d)
            weight = weight.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x, weight, None, conv.stride, conv.padding)


class ResidualBlock(nn.Module):
    """Two convolutions and a residual; FiLM acts on the first normalisation, before its non-linearity."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels, stride=stride, bias=True, act=True)
        self.conv2 = ConvNorm(channels, channels, bias=True, act=False)
        skip: list[nn.Module] = []
        if stride != 1:
            skip.append(nn.AvgPool3d(stride, stride))
        if in_channels != channels:
            skip.append(ConvNorm(in_channels, channels, kernel=1, bias=False, act=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Batch, film: Modulation | None = None) -> Batch:
        out = self.conv2(self.conv1(x, film))
        return F.leaky_relu(out.add_(self.skip(x)), NEGATIVE_SLOPE, inplace=True)


class Stage(nn.Module):
    """Residual blocks at one resolution; the first may take a stride."""

    def __init__(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        first = ResidualBlock(in_channels, channels, stride)
        self.blocks = nn.ModuleList(
            [first, *(ResidualBlock(channels, channels, 1) for _ in range(num_blocks - 1))]
        )

    def forward(self, x: Batch, films: Sequence[Modulation] | None = None) -> Batch:
        for index, block in enumerate(self.blocks):
            x = block(x, None if films is None else films[index])
        return x


class Stack(nn.Module):
    """A single convolution under the key `convs.0`, as the stem and the decoder's stages are named."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNorm(in_channels, channels, bias=True, act=True)])

    def forward(self, x: Batch, film: Modulation | None = None) -> Batch:
        out: Tensor = self.convs[0](x, film)
        return out


def sinusoidal_embedding(t: PerSample, dim: int) -> Float[Tensor, "B dim"]:
    """Sines and cosines of t at `dim / 2` geometric frequencies; t in [0, 1] is taken times 1,000 (DDPM)."""
    half = dim // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = 1000.0 * t.float()[:, None] * torch.exp(-math.log(10_000.0) * steps / half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FiLM(nn.Module):
    """Time to per-channel modulations for every normalisation that takes one, equation (6).

    One projection serves the whole network and is cut into its parts, which is one small matrix product instead
    of one per block. It starts at zero, so that an untrained conditioning is the identity.

    Args:
        channels: the channels of each modulated normalisation, in network order.
        dim: the width of the time embedding.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.dim = dim
        self.embed = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.project = nn.Linear(dim, 2 * sum(channels))

    def forward(self, t: PerSample) -> list[Modulation]:
        with torch.autocast(t.device.type, enabled=False):  # a few thousand numbers: precision is free
            flat = self.project(self.embed(sinusoidal_embedding(t, self.dim)))
        parts = flat.split([2 * c for c in self.channels], dim=1)
        return [Modulation(*part.chunk(2, dim=1)) for part in parts]
