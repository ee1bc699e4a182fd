"""The pieces of the residual U-Net: convolution with normalisation, residual block, FiLM.

Parameter names are those of dynamic-network-architectures, so that weights travel to nnU-Net and nnssl unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdae.networks.norm import Modulation, norm_act
from mdae.tensors import Batch, PerSample

FEW_CHANNELS = (
    16  # up to here oneDNN is faster on channels-last volumes, copies included: 1.8 times at 8 channels
)


class InstanceNorm(nn.Module):
    """Affine instance normalisation over the voxels of each sample and channel, FiLM applied on the way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Batch,
        film: Modulation | None = None,
        residual: Batch | None = None,
        act: bool = False,
    ) -> Batch:
        return norm_act(x, self.weight, self.bias, film, residual, act)


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

    def forward(self, x: Batch, film: Modulation | None = None, residual: Batch | None = None) -> Batch:
        """With a residual, it is added before the leaky ReLU, which is then always applied."""
        normed: Tensor = self.norm(self.convolve(x), film, residual, self.act or residual is not None)
        return normed

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
        out: Tensor = self.conv2(self.conv1(x, film), residual=self.shortcut(x))
        return out

    def shortcut(self, x: Batch) -> Batch:
        """The skip connection.

        On a GPU pooling and the convolution after it are one convolution with a stride, whose weight is the latter's
        spread over the voxels that are pooled: x is read once, and stays channels-last, which pooling does not keep.
        """
        if not x.is_cuda or len(self.skip) < 2:
            skipped: Tensor = self.skip(x)
            return skipped
        stride = self.conv1.conv.stride
        last = self.skip[-1]
        assert isinstance(last, ConvNorm)
        spread = last.conv.weight.expand(-1, -1, *stride) / math.prod(stride)
        normed: Tensor = last.norm(F.conv3d(x, spread, None, stride))
        return normed


class Stage(nn.Module):
    """Residual blocks at one resolution; the first may take a stride.

    Attributes:
        recompute: whether a block's activations are computed again in the backward pass instead of being kept.
    """

    def __init__(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        self.recompute = False
        first = ResidualBlock(in_channels, channels, stride)
        self.blocks = nn.ModuleList(
            [first, *(ResidualBlock(channels, channels, 1) for _ in range(num_blocks - 1))]
        )

    def forward(self, x: Batch, films: Sequence[Modulation] | None = None) -> Batch:
        for index, block in enumerate(self.blocks):
            film = None if films is None else films[index]
            x = recomputed(block, x, film) if self.recompute else block(x, film)
        return x


def recomputed(module: nn.Module, x: Batch, film: Modulation | None) -> Batch:
    """A module's output; of its activations its input alone is kept for the backward pass (Chen et al. 2016)."""
    out: Tensor = checkpoint(module, x, film, use_reentrant=False, preserve_rng_state=False)
    return out


class Stack(nn.Module):
    """A single convolution under the key `convs.0`, as the stem and the decoder's stages are named.

    Attributes:
        recompute: as of a `Stage`.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.recompute = False
        self.convs = nn.ModuleList([ConvNorm(in_channels, channels, bias=True, act=True)])

    def forward(self, x: Batch, film: Modulation | None = None) -> Batch:
        conv = self.convs[0]
        out: Tensor = recomputed(conv, x, film) if self.recompute else conv(x, film)
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

    def freeze(self) -> None:
        """Be the identity, and be trained no more."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.requires_grad_(False)

    @torch.no_grad()
    def fold(self, t: float, norms: Sequence[InstanceNorm | nn.LayerNorm]) -> None:
        """Take the modulations at time t into the normalisations that they belong to, in network order."""
        times = torch.tensor([t], dtype=torch.float32, device=self.project.weight.device)
        for norm, film in zip(norms, self(times), strict=True):
            gain = film.gamma[0] + 1
            norm.weight.mul_(gain)
            norm.bias.mul_(gain).add_(film.beta[0])
