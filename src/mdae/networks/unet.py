"""The residual-encoder U-Net g(X~, t), equation (5), and its fold into a plain encoder.

The state dict follows dynamic-network-architectures' `ResidualEncoderUNet` with `film.*` beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.networks.blocks import ConvNorm, FiLM, InstanceNorm, ResidualBlock, Stack, Stage
from mdae.networks.norm import CHANNELS_LAST, NEGATIVE_SLOPE, Modulation
from mdae.networks.presets import NetworkConfig
from mdae.tensors import Batch, PerSample

INDEXABLE = 2**31  # elements of one tensor


class ResidualEncoder(nn.Module):
    """Stem and stages; plain unless modulations are given.

    Attributes:
        config: the network it was built for.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
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

    def modulated_norms(self) -> Iterator[InstanceNorm]:
        """The normalisations that FiLM acts on, in the order of its modulations."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                yield module.conv1.norm


class Decoder(nn.Module):
    """Upsampling, concatenation with the encoder's stage, one convolution; the last head predicts the volume.

    The heads of the coarser stages exist for the key layout alone: frozen, and never computed.
    """

    def __init__(self, config: NetworkConfig) -> None:
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
        prediction: Tensor = self.seg_layers[-1](self.features(features, films))
        return prediction

    def features(self, features: Sequence[Tensor], films: Sequence[Modulation] | None = None) -> Tensor:
        """What the last head predicts from, (B, features[0], D, H, W)."""
        x = features[-1]
        for index, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            finer = features[-2 - index]
            if x.is_cuda:
                check_index(finer, 2 * finer.shape[1])
            x = torch.cat([up(x), finer], dim=1)
            x = stage(x, None if films is None else films[index])
        return x

    def modulated_norms(self) -> Iterator[InstanceNorm]:
        """The normalisations that FiLM acts on, in the order of its modulations."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                yield module.norm


class ResidualUNet(nn.Module):
    """The time-conditioned network of MDAE.

    Args:
        config: its shape.
        generator: the source of its initial weights, on the CPU.
    """

    def __init__(self, config: NetworkConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResidualEncoder(config)
        self.decoder = Decoder(config)
        block_channels = [c for c, n in zip(config.features, config.blocks, strict=True) for _ in range(n)]
        self.film = FiLM([*block_channels, *config.features[-2::-1]], config.time_dim)
        self._num_encoder_films = len(block_channels)
        initialise(self, generator or torch.Generator().manual_seed(0))

    @property
    def stride(self) -> int:
        """Every side of an input must be a multiple of this."""
        return self.config.stride

    def recompute(self, wanted: bool = True) -> None:
        """Keep each block's input alone for the backward pass, and compute the rest again: less memory, more time."""
        for module in self.modules():
            if isinstance(module, Stage | Stack):
                module.recompute = wanted

    def forward(self, x: Batch, t: PerSample | None) -> Batch:
        """Predict the clean volume from a corrupted one at times t, (B,); None leaves time, and FiLM, out."""
        films = None if t is None else self.film(t)
        features = self.encoder(x, films and films[: self._num_encoder_films])
        prediction: Tensor = self.decoder(features, films and films[self._num_encoder_films :])
        return prediction

    @torch.no_grad()
    def encoder_at(self, t: float = 0.0) -> ResidualEncoder:
        """The fold: a plain encoder equal to this one's at time t, with no trace of conditioning left.

        A copy in evaluation mode with gradients switched on, ready to embed or to fine-tune.
        """
        plain = copy.deepcopy(self.encoder)
        for norm, film in zip(plain.modulated_norms(), self._films_at(t)[0], strict=True):
            norm.fold_film(film)
        return plain.eval()

    @torch.no_grad()
    def decoder_at(self, t: float = 0.0) -> Decoder:
        """The fold of the decoder, for segmentation networks that start from all of this one's weights."""
        plain = copy.deepcopy(self.decoder)
        for norm, film in zip(plain.modulated_norms(), self._films_at(t)[1], strict=True):
            norm.fold_film(film)
        return plain.eval()

    def _films_at(self, t: float) -> tuple[list[Modulation], list[Modulation]]:
        """The modulations of encoder and decoder at one time, (1, C) each."""
        films = self.film(torch.tensor([t], dtype=torch.float32, device=self.film.project.weight.device))
        return films[: self._num_encoder_films], films[self._num_encoder_films :]


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


def pad_to_stride(x: Batch, stride: int, value: float = 0.0) -> Batch:
    """Pad the far end of each side with `value` to the next multiple of `stride`."""
    pads = [(-side) % stride for side in x.shape[2:]]
    return F.pad(x, (0, pads[2], 0, pads[1], 0, pads[0]), value=value)
