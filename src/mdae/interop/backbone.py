"""A network that turns a prepared volume into features, with all that is needed to use or fine-tune it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.types import Shape3, Spacing


@dataclass
class Backbone:
    """A network and how a raw scan is made ready for it.

    Attributes:
        name: for tables.
        identity: what tells its weights from others', such as their hash.
        network: volumes (B, C, D, H, W) of `patch` to features (B, F), float32.
        preprocessing: what `prepare` and `to_input` do, JSON-able; with `identity` it makes the key of cached features.
        prepare: reads a raw scan; may run in threads; raises `ScanError` for an unfit one.
        to_input: a prepared scan to the network's input (D, H, W) of `patch`, float32.
        patch: the sides (D, H, W) of the input.
        num_features: F.
        stem: the name within `network` of its first convolution, which takes one contrast (a 2D network may take it
            as several equal colours); `inflate_stem` widens it.
        groups: the parts of `network` from input to output, for layer-wise learning rates; together they hold each of
            its parameters once.
        source: where the weights come from, their licence and paper, for tables.
        pretraining: salted hashes of the scans that it was pre-trained on; None if nobody knows.
        spacing_mm: of the input's voxels, for rotations of it; only the sides' ratio matters.
        scratch: whether its weights are random, so that all of its layers have to learn alike.
    """

    name: str
    identity: str
    network: nn.Module
    preprocessing: dict[str, object]
    prepare: Callable[[ScanEntry], PreparedScan]
    to_input: Callable[[PreparedScan], np.ndarray]
    patch: Shape3
    num_features: int
    stem: str
    groups: list[nn.Module]
    source: str = ""
    pretraining: dict[str, Any] | None = None
    spacing_mm: Spacing = (1.0, 1.0, 1.0)
    scratch: bool = False


class PooledEncoder(nn.Module):
    """The means over the voxels of every stage of an encoder, finest first."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stage.float().mean(dim=(2, 3, 4)) for stage in self.encoder(x)], dim=1)


@torch.no_grad()
def inflate_stem(network: nn.Module, stem: str, num_contrasts: int) -> None:
    """Let a network take several contrasts: its first convolution's weights, repeated and divided by their number.

    So the widened network, given the same volume as every contrast, computes what it computed of that volume.

    Args:
        network: changed in place.
        stem: the name of its first convolution.
        num_contrasts: of the new input, at least 1.
    """
    parent_name, _, name = stem.rpartition(".")
    parent = network.get_submodule(parent_name)
    old = cast("nn.Conv2d | nn.Conv3d", getattr(parent, name))
    kind = type(old)
    wide = kind(
        old.in_channels * num_contrasts,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # what a convolution has, it takes
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    repeats = (1, num_contrasts) + (1,) * (old.weight.dim() - 2)
    wide.weight.copy_(old.weight.repeat(repeats) / num_contrasts)
    if old.bias is not None and wide.bias is not None:
        wide.bias.copy_(old.bias)
        wide.bias.requires_grad_(old.bias.requires_grad)
    wide.weight.requires_grad_(old.weight.requires_grad)
    setattr(parent, name, wide)
