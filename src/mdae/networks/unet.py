"""The residual-encoder U-Net g(X~, t), equation (5), its fold into a plain one, and its presets.

The state dict follows dynamic-network-architectures' `ResidualEncoderUNet` with `film.*` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.networks.base import Network, NetworkConfig, SparseFeatures, StageEncoder
from mdae.networks.blocks import ConvNorm, FiLM, InstanceNorm, ResidualBlock, Stack, Stage
from mdae.networks.norm import CHANNELS_LAST, NEGATIVE_SLOPE, Modulation
from mdae.networks.registry import NetworkSpec, register
from mdae.networks.sparse import sparse_features
from mdae.tensors import Batch, PerSample
from mdae.types import Shape3

INDEXABLE = 2**31  # elements of one tensor


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """A residual-encoder U-Net.

    Args:
        features: channels of each encoder stage; each stage but the first halves the resolution.
        blocks: residual blocks of each encoder stage; each decoder stage has one convolution.
        time_dim: width of the time embedding (6).
    """

    features: tuple[int, ...]
    blocks: tuple[int, ...]
    time_dim: int = 256

    def __post_init__(self) -> None:
        if len(self.features) != len(self.blocks) or len(self.features) < 2:
            raise ConfigError(
                f"features {self.features} and blocks {self.blocks} differ in length or are under two",
                mend="give one number of each for every stage",
            )
        if min(self.in_channels, *self.features, *self.blocks) < 1:
            raise ConfigError(
                "a network with fewer than one channel, feature or block", mend="give 1 or more"
            )
        if self.time_dim < 2 or self.time_dim % 2:
            raise ConfigError(f"time_dim is {self.time_dim}", mend="give an even number of 2 or more")

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.features) - 1))

    def check_shape(self, shape: Shape3) -> None:
        super().check_shape(shape)
        if math.prod(side // self.stride for side in shape) < 2:
            raise ConfigError(
                f"a volume of {shape} voxels leaves one voxel at the deepest stage, which cannot be normalised",
                mend=f"use a side of at least {2 * self.stride}",
            )


class ResidualEncoder(StageEncoder):
    """Stem and stages; plain unless modulations are given.

    Attributes:
        config: the network it was built for.
    """

    first_conv = "stem.convs.0.conv"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.in_channels, self.widths = config, config.in_channels, config.features
        self.stem = Stack(config.in_channels, config.features[0])
        inputs = (config.features[0], *config.features[:-1])
        self.stages = nn.ModuleList(
            Stage(before, channels, num_blocks, 1 if index == 0 else 2)
            for index, (before, channels, num_blocks) in enumerate(
                zip(inputs, config.features, config.blocks, strict=True)
            )
        )

    def forward(self, x: Batch, films: Sequence[Modulation] | None = None) -> list[Tensor]:
        """The output of every stage, finest first.

        Args:
            x: (B, C, D, H, W); every side a multiple of `config.stride`, else `ConfigError`.
            films: one modulation a residual block, in order; None for a plain (or folded) encoder.
        """
        self.config.check_shape((x.shape[2], x.shape[3], x.shape[4]))
        if x.is_cuda:  # tensor cores want channels last, and nothing inside changes the layout
            check_index(x, self.config.features[0])
            x = x.to(memory_format=CHANNELS_LAST)
        x = self.stem(x)
        features = []
        taken = 0
        for stage, num_blocks in zip(self.stages, self.config.blocks, strict=True):
            x = stage(x, None if films is None else films[taken : taken + num_blocks])
            taken += num_blocks
            features.append(x)
        return features

    def groups(self) -> list[nn.Module]:
        """The parts from input to output, each weight once."""
        return [self.stem, *self.stages]

    def modulated_norms(self) -> Iterator[InstanceNorm]:
        """The normalisations that FiLM acts on, in the order of its modulations."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                yield module.conv1.norm


class Decoder(nn.Module):
    """Upsampling, concatenation with the encoder's stage, one convolution; the last head predicts the volume.

    The heads of the coarser stages exist for the key layout alone: frozen, and never computed.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        coarse_to_fine = config.features[::-1]
        pairs = list(zip(coarse_to_fine[:-1], coarse_to_fine[1:], strict=True))
        self.stages = nn.ModuleList(Stack(2 * skip, skip) for _, skip in pairs)
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(below, skip, 2, 2) for below, skip in pairs)
        self.seg_layers = nn.ModuleList(nn.Conv3d(skip, config.in_channels, 1) for _, skip in pairs)
        for head in self.seg_layers[:-1]:
            head.requires_grad_(False)

    def forward(self, features: Sequence[Tensor], films: Sequence[Modulation] | None = None) -> Tensor:
        """From all the encoder's outputs, finest first, to the prediction (B, C, D, H, W)."""
        prediction: Tensor = self.seg_layers[-1](self.maps(features, films)[-1])
        return prediction

    def maps(self, features: Sequence[Tensor], films: Sequence[Modulation] | None = None) -> list[Tensor]:
        """Every stage's output, coarsest first; the last, (B, features[0], D, H, W), is what the head predicts from."""
        x = features[-1]
        maps = []
        for index, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            finer = features[-2 - index]
            if x.is_cuda:
                check_index(finer, 2 * finer.shape[1])
            x = torch.cat([up(x), finer], dim=1)
            x = stage(x, None if films is None else films[index])
            maps.append(x)
        return maps

    def modulated_norms(self) -> Iterator[InstanceNorm]:
        """The normalisations that FiLM acts on, in the order of its modulations."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                yield module.norm


class ResidualUNet(Network):
    """The time-conditioned network of MDAE.

    Args:
        config: its shape.
        generator: the source of its initial weights, on the CPU.
    """

    config: UNetConfig
    encoder: ResidualEncoder
    decoder: Decoder
    film: FiLM | None

    def __init__(self, config: UNetConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.map_widths = config.features[-2::-1]
        self.strides = tuple(2**stage for stage in range(len(config.features)))
        self.encoder = ResidualEncoder(config)
        self.decoder = Decoder(config)
        block_channels = [c for c, n in zip(config.features, config.blocks, strict=True) for _ in range(n)]
        self.film = FiLM([*block_channels, *config.features[-2::-1]], config.time_dim)
        self._num_encoder_films = len(block_channels)
        initialise(self, generator or torch.Generator().manual_seed(0))

    def stages(self, x: Batch, t: PerSample | None = None) -> list[Tensor]:
        stages: list[Tensor] = self.encoder(x, self._films(t)[0])
        return stages

    def sparse_stages(self, x: Batch, visible: Tensor, t: PerSample | None = None) -> list[SparseFeatures]:
        """The encoder as a sparse one, see `mdae.networks.sparse`."""
        self.config.check_shape((x.shape[2], x.shape[3], x.shape[4]))
        encoder = self.encoder
        stages = [stage for stage in encoder.stages if isinstance(stage, Stage)]
        return sparse_features(encoder.stem, stages, x, visible, self._films(t)[0])

    def maps(self, stages: Sequence[Tensor], t: PerSample | None = None) -> list[Tensor]:
        return self.decoder.maps(stages, self._films(t)[1])

    def restore(self, x: Batch, t: PerSample | None = None, head: nn.Module | None = None) -> Batch:
        of_encoder, of_decoder = self._films(t)
        finest = self.decoder.maps(self.encoder(x, of_encoder), of_decoder)[-1]
        volume: Tensor = (self.decoder.seg_layers[-1] if head is None else head)(finest)
        return volume

    def _films(self, t: PerSample | None) -> tuple[list[Modulation] | None, list[Modulation] | None]:
        """The modulations of encoder and decoder; None without time."""
        if t is None or self.film is None:
            return None, None
        films = self.film(t)
        return films[: self._num_encoder_films], films[self._num_encoder_films :]

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # the last of the decoder's, by the names of the key layout
        """The last map to the volume."""
        return self.decoder.seg_layers[-1]

    def part_of(self, name: str) -> str:
        return "head" if name.startswith("decoder.seg_layers.") else super().part_of(name)

    def new_head(self, channels: int) -> nn.Module:
        return nn.Conv3d(self.config.features[0], channels, 1)

    def drop_head(self) -> None:
        self.decoder.seg_layers = nn.ModuleList()

    def decoder_groups(self) -> list[nn.Module]:
        ups = zip(self.decoder.transpconvs, self.decoder.stages, strict=True)
        return [nn.ModuleList(pair) for pair in ups]

    def freeze_time(self) -> None:
        if self.film is not None:
            self.film.freeze()

    @torch.no_grad()
    def fold_time(self, t: float) -> None:
        if self.film is not None:
            self.film.fold(t, [*self.encoder.modulated_norms(), *self.decoder.modulated_norms()])
            self.film = None

    def recompute(self, wanted: bool = True) -> None:
        """Keep each block's input alone for the backward pass, and compute the rest again: less memory, more time."""
        for module in self.modules():
            if isinstance(module, Stage | Stack):
                module.recompute = wanted

    def largest_map(self, patch: Shape3) -> int:
        """That of the finest concatenation."""
        return 2 * self.config.features[0] * math.prod(patch)


@torch.no_grad()
def initialise(network: ResidualUNet, generator: torch.Generator) -> None:
    """He initialisation, each block's last normalisation and FiLM's projection at zero; biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
    if network.film is not None:
        nn.init.zeros_(network.film.project.weight)


def check_index(x: Batch, channels: int) -> None:
    """Raise `ConfigError` where x with this many channels has elements that CUDA's convolutions cannot count."""
    each = x[0, 0].numel() * channels
    if len(x) * each >= INDEXABLE:
        raise ConfigError(
            f"{len(x)} volumes of {tuple(x.shape[2:])} with {channels} channels hold {len(x) * each:,} elements, "
            f"and a GPU's convolutions count to {INDEXABLE:,}",
            mend=f"give a device {(INDEXABLE - 1) // each} at once, by a smaller --batch or a larger --accumulate",
        )


# Rates: of tiny and small as docs/does-it-help.md found them; those of larger ones have not been compared.
for _name, _features, _blocks, _side, _lr, _use in (
    ("tiny", (8, 16, 32, 64), (1, 1, 1, 1), 48, 2e-3, "a laptop's CPU, the demo"),
    ("small", (16, 32, 64, 128, 160), (1, 2, 2, 2, 2), 96, 2e-3, "one small GPU"),
    ("base", (32, 64, 128, 256, 320), (1, 2, 3, 4, 4), 128, 1e-3, "one GPU"),
    (
        "resenc-l",
        (32, 64, 128, 256, 320, 320),
        (1, 3, 4, 6, 6, 6),
        160,
        1e-3,
        "nnU-Net's ResEnc-L: the paper's backbone",
    ),
):
    register(
        _name,
        NetworkSpec(
            kind="residual-unet",
            config=UNetConfig(features=_features, blocks=_blocks),
            patch=(_side, _side, _side),
            use=_use,
            build=ResidualUNet,
            lr=_lr,
        ),
    )
