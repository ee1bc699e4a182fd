"""Which patches a step learns from, read with what augmentation needs around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mdae.data import augment
from mdae.data.preprocess import UNKNOWN
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.volumes import UNLABELLED, LabelledVolume
from mdae.seeding import numpy_generator, torch_generator
from mdae.types import Shape3, Spacing, shape3


@dataclass(frozen=True)
class Example:
    """A volume to learn from, ready for the network.

    Attributes:
        own: the volume with its labels.
        context: (K, D, H, W), what the readout says of place and intensities; it stays as it is.
    """

    own: LabelledVolume
    context: np.ndarray


class PatchSampler:
    """The batches of a fine-tuning: a pure function of the seed and the step.

    Args:
        examples: to learn from, each as often as any other.
        patch: the sides.
        options: batch, share of foreground, augmentation.
        seed: of all that is drawn.
        device: of the batches.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        patch: Shape3,
        options: FewLabelOptions,
        seed: int,
        device: torch.device,
    ) -> None:
        self.examples, self.patch, self.options = examples, patch, options
        self.seed, self.device = seed, device
        self.spacing: Spacing = examples[0].own.volume.spacing_mm
        self.margin = augment.margin(options.augment, patch, self.spacing)
        self.labelled = [_places_of_labels(example.own.labels) for example in examples]
        self.lacking = [augment.lacking(torch.from_numpy(own.own.volume.data)[None])[0] for own in examples]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Contrasts (B, C, *patch), context (B, K, *patch) and the labels' shares (B, K, *patch) of a step."""
        batch = self.options.batch
        order = [self._example(step * batch + row) for row in range(batch)]
        parts = [self._read(number, step * batch + row) for row, number in enumerate(order)]
        x, context, target = (torch.stack(part).to(self.device) for part in zip(*parts, strict=True))
        x, context, target = self._augmented(x, context, target, step)
        none = torch.stack([self.lacking[number] for number in order]).to(self.device)
        return x.masked_fill(none, UNKNOWN), context, target

    def _example(self, draw: int) -> int:
        """Every example once an epoch, in an order of its own."""
        epoch, place = divmod(draw, len(self.examples))
        return int(numpy_generator(self.seed, "examples", epoch).permutation(len(self.examples))[place])

    def _read(self, number: int, draw: int) -> tuple[Tensor, Tensor, Tensor]:
        example, rng = self.examples[number], numpy_generator(self.seed, "patch", draw)
        labels = example.own.labels
        size = [edge + 2 * beyond for edge, beyond in zip(self.patch, self.margin, strict=True)]
        start = _start(labels.shape, self.patch, self.labelled[number], self.options.foreground, rng)
        corner = [first - beyond for first, beyond in zip(start, self.margin, strict=True)]
        volume = example.own.volume
        x = np.stack(
            [cut(one, corner, size, value) for one, value in zip(volume.data, volume.background, strict=True)]
        )
        context = np.stack([cut(one, corner, size, 0.0) for one in example.context])
        own = cut(labels, corner, size, UNLABELLED)
        shares = own[None] == np.arange(len(context))[:, None, None, None]
        return torch.from_numpy(x), torch.from_numpy(context), torch.from_numpy(shares.astype(np.float32))

    def _augmented(
        self, x: Tensor, context: Tensor, target: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Contrasts, context and labels turned alike; intensities of the contrasts alone changed."""
        options = self.options.augment
        if not options.any:
            return x, context, target
        draws = [step * len(x) + row for row in range(len(x))]
        generators = [torch_generator(self.seed, "augmentation", draw, device=self.device) for draw in draws]
        drawn = augment.draw(options, generators)
        turned = replace(options, gain=0.0, shift=0.0, gamma=0.0)
        coloured = replace(options, flip=0.0, rotate_deg=0.0, scale=0.0)
        sizes = [x.shape[1], context.shape[1], target.shape[1]]
        everything = torch.cat([x, context, target], dim=1)
        everything, _ = augment.apply(
            drawn, everything, None, options=turned, patch=self.patch, spacing_mm=self.spacing
        )
        x, context, target = torch.split(everything, sizes, dim=1)
        x, _ = augment.apply(drawn, x, None, options=coloured, patch=self.patch, spacing_mm=self.spacing)
        return x, context, target


def _places_of_labels(labels: np.ndarray) -> list[np.ndarray]:
    """The flat places of each label that a volume has, the background left out."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels[labels > 0])]


def _start(
    shape: Sequence[int],
    patch: Shape3,
    labelled: Sequence[np.ndarray],
    foreground: float,
    rng: np.random.Generator,
) -> Shape3:
    """A patch's corner: around a voxel of a label, or anywhere; the volume is centred along sides that fit into it."""
    wanted, middle = rng.random() < foreground, rng.random(3)
    if labelled and wanted:
        places = labelled[int(rng.integers(len(labelled)))]
        at = np.unravel_index(int(places[rng.integers(len(places))]), tuple(shape))
        # anywhere in the patch but for its rim: a label is not always in the middle
        first = [
            int(a - edge * (0.25 + 0.5 * share)) for a, edge, share in zip(at, patch, middle, strict=True)
        ]
    else:
        first = [
            int(share * (side - edge + 1)) for side, edge, share in zip(shape, patch, middle, strict=True)
        ]
    return shape3(
        min(max(a, 0), side - edge) if side > edge else (side - edge) // 2
        for a, side, edge in zip(first, shape, patch, strict=True)
    )


def cut(volume: np.ndarray, start: Sequence[int], size: Sequence[int], value: float) -> np.ndarray:
    """A box of a volume, filled with `value` where it leaves it."""
    out = np.full(size, value, dtype=volume.dtype)
    low = [max(0, first) for first in start]
    high = [min(side, first + edge) for side, first, edge in zip(volume.shape, start, size, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        out[target] = volume[source]
    return out
