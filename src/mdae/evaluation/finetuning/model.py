"""A backbone with a linear head that starts as a probe of its features, and the learning rate of each of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdae.errors import ModelError
from mdae.evaluation.finetuning.config import FinetuneOptions, Fusion
from mdae.evaluation.probing.estimators import Predictor
from mdae.interop.backbone import Backbone
from mdae.networks import StageEncoder
from mdae.tensors import Batch

FLAT = 0.01  # of a feature's mean and of all features' spread: what varies less is not blown up when it comes to life
ROWS = 512  # of the matrix that reads a linear function off


class FinetuneModel(nn.Module):
    """Volumes of one or several contrasts to one number a subject, or one a class.

    The features of several contrasts are joined side by side, not averaged: what is bright in one contrast and dark in
    another has to stay apart, the head grows by no more than K F weights, and a linear probe sees the same.

    The network stays in evaluation mode: statistics of batches of four are noise, and nothing within it draws random
    numbers that no seed knows of. So a batch is exactly its scans, one by one.

    Args:
        backbone: its network becomes part of this model, and is widened for early fusion.
        num_contrasts: K of the inputs.
        num_outputs: of the head.
        fusion: "late", one pass a contrast, or "early", all contrasts into the first convolution; an encoder that was
            pre-trained on all of them at once takes them so either way.
        at_once: volumes that go through the network together. Where a subject has more, activations are computed again
            on the way back rather than kept.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, backbone: Backbone, num_contrasts: int, num_outputs: int, fusion: Fusion, at_once: int
    ) -> None:
        super().__init__()
        self.network = backbone.network.eval().requires_grad_(True)
        if fusion == "early" and num_contrasts > self.network.in_channels:
            self.network.widen(num_contrasts // self.network.in_channels)
        self.volumes_each = num_contrasts // self.network.in_channels
        self.at_once = at_once
        self.num_features = self.network.num_features * self.volumes_each
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("scale", torch.ones(self.num_features))
        # The probe fills it; from "meta", no weights are drawn of a global seed.
        self.head = nn.Linear(self.num_features, num_outputs, device="meta").to_empty(device="cpu")

    def features(self, x: Batch) -> Tensor:
        """The features, float32, of the contrasts (B, K, D, H, W): (B, F) of all at once, (B, K F) one by one."""
        volumes = x.reshape(len(x) * self.volumes_each, self.network.in_channels, *x.shape[2:])
        parts = torch.split(volumes, self.at_once)
        if len(parts) > 1 and torch.is_grad_enabled():
            rows = [checkpoint(self.network.features, part, use_reentrant=False) for part in parts]
        else:
            rows = [self.network.features(part) for part in parts]
        return torch.cat(rows).reshape(len(x), self.num_features)

    def outputs(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """The head's numbers, (B,) of one output and (B, O) of several (`finetuning.labels`).

        Args:
            features: of the batch.
            kept: like `features`, what dropout leaves of each: 0, or 1 / (1 - p); None for all.
        """
        standard = (features - self.mean) / self.scale
        numbers = torch.as_tensor(self.head(standard if kept is None else standard * kept))
        return numbers[:, 0] if numbers.shape[1] == 1 else numbers

    @torch.no_grad()
    def start_from(self, probe: Predictor, features: np.ndarray, offset: np.ndarray) -> None:
        """Let the head be a linear probe, on features that are standardised as those of the training part are now.

        Args:
            probe: a linear function of features (N, F), to (N,) or (N, O).
            features: (N, F) of the training part.
            offset: (O,), added to the probe's numbers.
        """
        mean = features.mean(axis=0)
        spread = features.std(axis=0)
        scale = np.maximum(spread, FLAT * (np.abs(mean) + np.sqrt((spread**2).mean())))
        scale[scale == 0] = 1.0
        bias = probe(mean[None])[0]
        weight = np.concatenate(
            [
                probe(mean + np.eye(some.stop - some.start, len(mean), some.start) * scale) - bias
                for some in runs(len(mean), ROWS)
            ]
        )
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))
        self.head.weight.copy_(torch.from_numpy(weight.reshape(len(mean), -1).T))
        self.head.bias.copy_(torch.from_numpy(bias + offset))


def runs(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `length`."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def layerwise(network: StageEncoder, head: nn.Module, options: FinetuneOptions) -> list[dict[str, Any]]:
    """The optimiser's groups: each with its parameters, its `peak` learning rate and its weight decay.

    Group i of G of the network peaks at lr * layer_decay^(G - 1 - i), the head at head_lr.

    Raises:
        ModelError: the network's groups do not hold each of its parameters once.
    """
    parts = network.groups()
    listed = [id(parameter) for part in parts for parameter in part.parameters()]
    if sorted(listed) != sorted(id(parameter) for parameter in network.parameters()):
        kind = type(network).__name__
        raise ModelError(
            "its groups do not hold each parameter once", where=kind, mend=f"mend {kind}.groups()"
        )
    last = len(parts) - 1
    peaks = [options.lr * options.layer_decay ** (last - depth) for depth in range(last + 1)]
    groups = []
    for module, peak in zip([*parts, head], [*peaks, options.head_lr], strict=True):
        for decayed in (True, False):  # matrices and convolutions; normalisations and biases
            groups.append(
                {
                    "params": [p for p in module.parameters() if (p.dim() > 1) == decayed],
                    "peak": peak,
                    "weight_decay": options.weight_decay if decayed else 0.0,
                }
            )
    return [group for group in groups if group["params"]]
