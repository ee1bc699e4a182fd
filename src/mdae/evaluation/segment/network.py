"""The pre-trained network with one linear head on all its maps, which starts as a readout of them.

Every map, the encoder's and the decoder's, is brought to the voxels by trilinear interpolation. A linear head commutes
with that: it acts on the coarse maps, and a number a label is interpolated instead of hundreds of features. Contrasts
go through the network one by one or together, as it was pre-trained, and their maps stand side by side before the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdae.devices import uses_bf16
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.networks.saved import SavedModel
from mdae.tensors import Batch
from mdae.types import Shape3


class MapNetwork(nn.Module):
    """The maps of encoder and decoder, folded at t = 0.

    Args:
        model: it stays as it is.

    Attributes:
        in_channels: contrasts that it sees at once.
        widths: channels of each map.
        patch: the window that it was pre-trained on.
    """

    def __init__(self, model: SavedModel) -> None:
        super().__init__()
        plain = model.network.at(0.0)
        plain.drop_head()  # of the pre-training's own output
        self.encoder, self.decoder = plain.encoder, plain.decoder
        self._whole = (plain,)  # in a tuple, so that its weights have one name
        self.in_channels = plain.in_channels
        self.widths: tuple[int, ...] = (*plain.widths, *plain.map_widths)
        self.patch: Shape3 = model.patch
        self.requires_grad_(True)

    def forward(self, x: Batch) -> list[Tensor]:
        """The maps of windows (B, C, D, H, W): the encoder's, finest first, then the decoder's, coarsest first."""
        (plain,) = self._whole
        stages = plain.stages(x)
        return [*stages, *plain.maps(stages)]

    def groups(self) -> list[nn.Module]:
        """Its parts from input to output, for layer-wise learning rates."""
        (plain,) = self._whole
        return [*plain.encoder.groups(), *plain.decoder_groups()]


class FrozenMaps:
    """The maps of a pre-trained network as they are, for readouts.

    Args:
        model: pre-trained.
        device: where to compute.
    """

    def __init__(self, model: SavedModel, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.network = MapNetwork(model).eval().to(self.device)
        self.patch, self.in_channels = self.network.patch, self.network.in_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each map."""
        return self.network.widths

    @torch.inference_mode()
    def stages(self, windows: Tensor) -> list[Tensor]:
        """The maps of windows (B, C, D, H, W), on the device; bf16 if that is a GPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.device)):
            return list(self.network(windows.to(self.device)))


def _interpolated(x: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear interpolation of (B, K, d, h, w) to a size: a matrix an axis, much faster on a CPU than at once."""
    d, h, w = (
        F.interpolate(torch.eye(n, device=x.device)[None], size=m, mode="linear")[0]
        for n, m in zip(x.shape[2:], size, strict=True)
    )
    x = torch.einsum("bkdhw,dD->bkDhw", x, d)
    x = torch.einsum("bkdhw,hH->bkdHw", x, h)
    return torch.einsum("bkdhw,wW->bkdhW", x, w)


class SegmentationNetwork(nn.Module):
    """Scores of labels from all maps of a pre-trained network.

    Args:
        model: pre-trained.
        num_labels: K.
        num_contrasts: C, a multiple of those that the network sees at once.

    Attributes:
        weight: (K, C * sum(widths)), of maps divided by `scale`, so that one learning rate fits all.
        bias: (K,).
    """

    scale: Tensor

    def __init__(self, model: SavedModel, num_labels: int, num_contrasts: int) -> None:
        super().__init__()
        self.maps = MapNetwork(model)
        width = num_contrasts // self.maps.in_channels * sum(self.maps.widths)
        self.weight = nn.Parameter(torch.zeros(num_labels, width))
        self.bias = nn.Parameter(torch.zeros(num_labels))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Batch) -> Tensor:
        """The scores (B, K, D, H, W), float32, of contrasts (B, C, D, H, W)."""
        batch, at_once = len(x), self.maps.in_channels
        passes = x.shape[1] // at_once
        maps = self.maps(x.reshape(batch * passes, at_once, *x.shape[2:]))
        kernels = (self.weight / self.scale).view(len(self.weight), passes, -1)
        total = self.bias.view(1, -1, 1, 1, 1).expand(batch, -1, *x.shape[2:])
        coarse: dict[torch.Size, Tensor] = {}  # of maps of one resolution together: one interpolation for all
        for kernel, own in zip(torch.split(kernels, list(self.maps.widths), dim=2), maps, strict=True):
            side_by_side = own.float().view(batch, -1, *own.shape[2:])  # pass by pass, as the weights
            read = torch.einsum("kc,bcdhw->bkdhw", kernel.flatten(1), side_by_side)
            before = coarse.get(own.shape[2:])
            coarse[own.shape[2:]] = read if before is None else before + read
        for size, read in coarse.items():
            same = size == x.shape[2:]
            total = total + (read if same else _interpolated(read, x.shape[2:]))
        return total

    @torch.no_grad()
    def start_from(
        self, weights: Sequence[np.ndarray], biases: np.ndarray, scale: Sequence[np.ndarray]
    ) -> None:
        """Let the head be a readout.

        Args:
            weights: (K, sum(widths)) for each pass.
            biases: (K,).
            scale: (sum(widths),) for each pass, by how much the features vary.
        """
        wide = torch.from_numpy(np.concatenate(scale)).float()
        self.scale.copy_(torch.where(wide > 0, wide, torch.ones_like(wide)))
        own = torch.from_numpy(np.concatenate(weights, axis=1)).to(self.scale)
        self.weight.copy_(own * self.scale)
        self.bias.copy_(torch.from_numpy(biases))

    def layerwise(self, options: FewLabelOptions) -> list[dict[str, Any]]:
        """The optimiser's groups with their `peak` learning rates: group i of G at lr * layer_decay^(G - 1 - i)."""
        parts = self.maps.groups()
        peaks = [options.lr * options.layer_decay ** (len(parts) - 1 - depth) for depth in range(len(parts))]
        groups: list[dict[str, Any]] = []
        for part, peak in zip(parts, peaks, strict=True):
            for decayed in (True, False):  # kernels; normalisations and biases
                own = [p for p in part.parameters() if p.requires_grad and (p.dim() > 1) == decayed]
                decay = options.weight_decay if decayed else 0.0
                groups.append({"params": own, "peak": peak, "weight_decay": decay})
        groups.append({"params": [self.weight, self.bias], "peak": options.head_lr, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]
