"""Whole volumes by a segmentation network: overlapping windows blended by Gaussian weights, and quick looks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from mdae.devices import uses_bf16
from mdae.evaluation.features.sliding_window import window_starts
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.network import SegmentationNetwork
from mdae.evaluation.segment.patches import Example, cut
from mdae.evaluation.segment.volumes import UNLABELLED, Volume

AT_ONCE = 4  # windows in a batch
WINDOWS = 64  # of a volume that a quick look takes
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))


@torch.no_grad()
def scores_of(network: SegmentationNetwork, volume: Volume, options: FewLabelOptions) -> np.ndarray:
    """The network's scores (K, D, H, W), float32, of a whole volume: windows blended by Gaussian weights."""
    device, patch = network.bias.device, network.maps.patch
    low = [max(0, edge - side) // 2 for side, edge in zip(volume.shape, patch, strict=True)]
    high = [max(0, edge - side) - a for side, edge, a in zip(volume.shape, patch, low, strict=True)]
    padded = [
        np.pad(one, list(zip(low, high, strict=True)), constant_values=value)
        for one, value in zip(volume.data, volume.background, strict=True)
    ]
    x = torch.from_numpy(np.stack(padded))[None]

    def of_windows(windows: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device)):
            return torch.as_tensor(network(windows)).float()

    total = torch.zeros(())
    flips = FLIPS if options.mirror else FLIPS[:1]
    for axes in flips:
        found = sliding_window_inference(
            x.flip(axes) if axes else x,
            patch,
            AT_ONCE,
            of_windows,
            overlap=options.overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
        total = total + (found.flip(axes) if axes else found)
    x0, y0, z0 = low
    d, h, w = volume.shape
    inner = total[0, :, x0 : x0 + d, y0 : y0 + h, z0 : z0 + w] / len(flips)
    return np.asarray(inner.numpy(), dtype=np.float32)


@torch.no_grad()
def look_at(network: SegmentationNetwork, example: Example, options: FewLabelOptions) -> tuple[float, ...]:
    """The Dice of each label of a volume but the background; NaN of those that it has not.

    Of a volume of very many windows some are taken, half of them with labels as far as there are, and each counts as
    all that it stands for: choosing a step need not take hours.
    """
    labels, patch = example.own.labels, network.maps.patch
    starts = window_starts(labels.shape, patch)
    if len(starts) <= WINDOWS:
        scores = scores_of(network, example.own.volume, options) + example.context
        return _dice([(scores, labels, 1.0)])
    inside = [cut(labels, start, patch, UNLABELLED) for start in starts]
    with_labels = [index for index, own in enumerate(inside) if (own > 0).any()]
    without = [index for index in range(len(starts)) if index not in set(with_labels)]
    seen = []
    for group, room in (
        (with_labels, WINDOWS // 2),
        (without, WINDOWS - min(len(with_labels), WINDOWS // 2)),
    ):
        taken = [group[i] for i in np.linspace(0, len(group) - 1, min(len(group), room)).astype(int)]
        for index in taken:
            own = _cut_volume(example.own.volume, starts[index], patch)
            context = np.stack([cut(one, starts[index], patch, 0.0) for one in example.context])
            scores = scores_of(network, own, options) + context
            seen.append((scores, inside[index], len(group) / len(taken)))
    return _dice(seen)


def _cut_volume(volume: Volume, start: Sequence[int], patch: Sequence[int]) -> Volume:
    parts = [cut(one, start, patch, value) for one, value in zip(volume.data, volume.background, strict=True)]
    return Volume(np.stack(parts), volume.background, volume.spacing_mm)


def _dice(parts: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple[float, ...]:
    """Of scores (K, D, H, W) and labels (D, H, W) of parts of a volume, each of which stands for so many."""
    number = len(parts[0][0])
    both, sizes, there = np.zeros(number), np.zeros(number), np.zeros(number)
    for scores, labels, stands_for in parts:
        called = np.where(labels == UNLABELLED, UNLABELLED, scores.argmax(axis=0))
        for label in range(1, number):
            one, other = called == label, labels == label
            both[label] += stands_for * np.count_nonzero(one & other)
            there[label] += stands_for * np.count_nonzero(other)
            sizes[label] += stands_for * (np.count_nonzero(one) + np.count_nonzero(other))
    return tuple(
        float(2 * both[label] / sizes[label]) if there[label] else math.nan for label in range(1, number)
    )
