"""Primus, a plain vision transformer for volumes: cubes of voxels as tokens, and next to nothing of a decoder.

Wald et al., Primus: Enforcing Attention Usage for 3D Medical Image Segmentation, 2025 (arXiv 2503.01835). The encoder's
weights have the names of dynamic-network-architectures' `Primus` (`down_projection.proj`, `eva.blocks.N`), nnU-Net's
and nnssl's; `mdae.interop.nnssl_primus` names the decoder's so, too.

Time enters by the scale and shift of every block's two normalisations, as FiLM (6) does in the U-Net; both fold into
the normalisation's own weight and bias, exactly. Tokens can be left out (`sparse_stages`), which is what a transformer
gains from masking: attention is over those that are left, at their own places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.networks.attention import MLP_RATIO, Block, Tokens, angles
from mdae.networks.base import Network, NetworkConfig, SparseFeatures, StageEncoder
from mdae.networks.blocks import FiLM
from mdae.networks.norm import Modulation
from mdae.networks.registry import NetworkSpec, register
from mdae.tensors import Batch, PerSample
from mdae.types import Shape3

WEIGHT_STD = 0.02
CONV_SLOPE = 0.01  # of the leaky ReLU that convolutions are initialised for, as the library does


@dataclass(frozen=True, kw_only=True)
class PrimusConfig(NetworkConfig):
    """The sizes of a Primus.

    Args:
        embed_dim: the width of a token; a multiple of six times the number of heads.
        depth: blocks.
        heads: of attention.
        token: the edge of a token's cube in voxels, a power of 2.
        shape: the volume in voxels whose places have an embedding of their own; it is interpolated for others.
        time_dim: width of the time embedding.
    """

    embed_dim: int
    depth: int
    heads: int
    token: int = 8
    shape: Shape3 = (160, 160, 160)
    time_dim: int = 256

    def __post_init__(self) -> None:
        if min(self.in_channels, self.embed_dim, self.depth, self.heads) < 1:
            raise ConfigError("a network with fewer than one channel, block or head", mend="give 1 or more")
        if self.embed_dim % (6 * self.heads):
            raise ConfigError(
                f"tokens of {self.embed_dim} and {self.heads} heads: places turn pairs along three axes",
                mend=f"give an embed_dim that is a multiple of {6 * self.heads}",
            )
        if self.token < 2 or self.token & (self.token - 1):
            raise ConfigError(f"tokens of {self.token} voxels a side", mend="give a power of 2 from 2")
        if self.time_dim < 2 or self.time_dim % 2:
            raise ConfigError(f"time_dim is {self.time_dim}", mend="give an even number of 2 or more")
        self.check_shape(self.shape)

    @property
    def stride(self) -> int:
        return self.token

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels from the tokens to the volume: a geometric row, rounded to multiples of 8 as the library does."""
        steps = self.token.bit_length() - 1
        factor = (self.embed_dim / (2 * self.in_channels)) ** (1 / steps)
        between = (self.embed_dim / factor**step for step in range(1, steps))
        return (self.embed_dim, *(max(8, round((width + 1e-6) / 8) * 8) for width in between))


class Cubes(nn.Module):
    """Cubes of voxels to tokens, by one convolution without overlap."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.in_channels, config.embed_dim, config.token, stride=config.token)


class Trunk(nn.Module):
    """Embedding of places, blocks, and a last normalisation."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        grid = grid_of(config.shape, config.token)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(grid), config.embed_dim))
        self.blocks = nn.ModuleList(Block(config.embed_dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim)

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block


class PrimusEncoder(StageEncoder):
    """Cubes to tokens to the only stage, (B, embed_dim, D / token, H / token, W / token).

    Attributes:
        config: the network it was built for.
    """

    first_conv = "down_projection.proj"

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        self.config, self.in_channels, self.widths = config, config.in_channels, (config.embed_dim,)
        self.down_projection = Cubes(config)
        self.eva = Trunk(config)

    def forward(self, x: Batch, films: Sequence[Modulation] | None = None) -> list[Tensor]:
        """The stage in a list.

        Args:
            x: (B, C, D, H, W); every side a multiple of `config.token`, else `ConfigError`.
            films: two modulations a block, in order; None for a plain (or folded) encoder.
        """
        tokens, grid = self._tokens(x)
        tokens = self._through(tokens, self._places(grid, x.device), films, None)
        return [as_volume(tokens, grid)]

    def sparse(
        self, x: Batch, visible: Bool[Tensor, "B 1 D H W"], films: Sequence[Modulation] | None
    ) -> SparseFeatures:
        """The stage from the tokens alone of which anything is visible; the others are computed nowhere."""
        tokens, grid = self._tokens(x.masked_fill(~visible, 0.0))
        seen = F.max_pool3d(visible.float(), self.config.token) > 0
        kept = seen.flatten(1)
        most = max(1, int(kept.sum(dim=1).max()))  # the host waits here: attention is over so many
        order = kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        taken = order[:, :, None].expand(-1, -1, tokens.shape[2])
        attended = kept.gather(1, order)[:, None, None, :]
        attended = attended | ~attended.any(dim=3, keepdim=True)  # a softmax over nothing is no number
        places = self._places(grid, x.device)[order][:, None]
        out = self._through(tokens.gather(1, taken), places, films, attended)
        whole = torch.zeros_like(tokens, dtype=out.dtype).scatter(1, taken, out)
        return SparseFeatures(as_volume(whole, grid) * seen, seen)

    def _tokens(self, x: Batch) -> tuple[Tokens, Shape3]:
        """All tokens with the embedding of their places, and how many there are along each side."""
        config = self.config
        shape = (x.shape[2], x.shape[3], x.shape[4])
        config.check_shape(shape)
        grid, own = grid_of(shape, config.token), grid_of(config.shape, config.token)
        tokens = self.down_projection.proj(x).flatten(2).transpose(1, 2)
        where: Tensor = self.eva.pos_embed
        if grid != own:
            where = F.interpolate(as_volume(where, own), grid, mode="trilinear").flatten(2).transpose(1, 2)
        return tokens + where, grid

    def _places(self, grid: Shape3, device: torch.device) -> Float[Tensor, "N F"]:
        return angles(grid, self.config.embed_dim // self.config.heads, device)

    def _through(
        self,
        tokens: Tokens,
        places: Tensor,
        films: Sequence[Modulation] | None,
        attended: Tensor | None,
    ) -> Tokens:
        for index, block in enumerate(self.eva):
            own = (None, None) if films is None else films[2 * index : 2 * index + 2]
            tokens = block(tokens, places, own, attended)
        normed: Tensor = self.eva.norm(tokens)
        return normed

    def groups(self) -> list[nn.Module]:
        """The parts from input to output, each weight once."""
        first = nn.ModuleList([self.down_projection])
        first.register_parameter("pos_embed", self.eva.pos_embed)
        return [first, *self.eva, self.eva.norm]

    def modulated_norms(self) -> list[nn.LayerNorm]:
        """The normalisations that time acts on, in the order of its modulations."""
        return [norm for block in self.eva for norm in (block.norm1, block.norm2)]


class VoxelNorm(nn.Module):
    """Normalisation over the channels of each voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Batch) -> Batch:
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, eps=1e-6).movedim(-1, 1)


class Primus(Network):
    """The time-conditioned transformer.

    Args:
        config: its sizes.
        generator: the source of its initial weights, on the CPU.
    """

    config: PrimusConfig
    encoder: PrimusEncoder
    decoder: nn.ModuleList
    film: FiLM | None

    def __init__(self, config: PrimusConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.strides = (config.token,)
        self.map_widths = config.decoder_widths[1:] or config.decoder_widths
        self.encoder = PrimusEncoder(config)
        pairs = zip(config.decoder_widths[:-1], config.decoder_widths[1:], strict=True)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(a, b, 2, 2), VoxelNorm(b), nn.GELU()) for a, b in pairs
        )
        self.head = self.new_head(config.in_channels)
        self.film = FiLM([config.embed_dim] * (2 * config.depth), config.time_dim)
        initialise(self, generator or torch.Generator().manual_seed(0))

    def stages(self, x: Batch, t: PerSample | None = None) -> list[Tensor]:
        stages: list[Tensor] = self.encoder(x, self._films(t))
        return stages

    def sparse_stages(self, x: Batch, visible: Tensor, t: PerSample | None = None) -> list[SparseFeatures]:
        """The stage from visible tokens alone; a token is visible if any of its voxels is."""
        return [self.encoder.sparse(x, visible, self._films(t))]

    def maps(self, stages: Sequence[Tensor], t: PerSample | None = None) -> list[Tensor]:
        maps = [stages[0]]
        for up in self.decoder:
            maps.append(up(maps[-1]))
        return maps[1:] or maps

    def _films(self, t: PerSample | None) -> list[Modulation] | None:
        return None if t is None or self.film is None else self.film(t)

    def new_head(self, channels: int) -> nn.Module:
        return nn.ConvTranspose3d(self.map_widths[-1], channels, 2, 2)

    def decoder_groups(self) -> list[nn.Module]:
        return list(self.decoder)

    def freeze_time(self) -> None:
        if self.film is not None:
            self.film.freeze()

    @torch.no_grad()
    def fold_time(self, t: float) -> None:
        if self.film is not None:
            self.film.fold(t, self.encoder.modulated_norms())
            self.film = None

    def recompute(self, wanted: bool = True) -> None:
        """Keep each block's tokens alone for the backward pass, and compute the rest again."""
        for block in self.encoder.eva:
            block.recompute = wanted

    def largest_map(self, patch: Shape3) -> int:
        """That of a gated layer, or of the last map."""
        config = self.config
        hidden = int(config.embed_dim * MLP_RATIO) * math.prod(patch) // config.token**3
        return max(hidden, self.map_widths[-1] * math.prod(patch) // 8)


def grid_of(shape: Shape3, token: int) -> Shape3:
    """Tokens along each side."""
    return (shape[0] // token, shape[1] // token, shape[2] // token)


def as_volume(tokens: Tokens, grid: Shape3) -> Float[Tensor, "B C D H W"]:
    """Tokens in the order of the grid, last axis fastest, as a volume."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


@torch.no_grad()
def initialise(network: Primus, generator: torch.Generator) -> None:
    """As the library: linear layers and places of deviation 0.02, what a block adds smaller with its depth."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=CONV_SLOPE, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=WEIGHT_STD, generator=generator)
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    trunk = network.encoder.eva
    nn.init.trunc_normal_(trunk.pos_embed, std=WEIGHT_STD, generator=generator)
    for number, block in enumerate(trunk, start=1):
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.div_(math.sqrt(2.0 * number))
    if network.film is not None:
        nn.init.zeros_(network.film.project.weight)


for _name, _dim, _depth, _heads, _use in (
    ("primus-s", 396, 12, 6, "a plain transformer on one GPU"),
    ("primus-m", 864, 16, 12, "nnU-Net's and nnssl's Primus-M"),
):
    register(
        _name,
        NetworkSpec(
            kind="primus",
            config=PrimusConfig(embed_dim=_dim, depth=_depth, heads=_heads),
            patch=(160, 160, 160),
            use=_use,
            build=Primus,
        ),
    )
