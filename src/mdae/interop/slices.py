"""Networks of flat colour images on volumes: axial slices, evenly spaced over the head, their class tokens averaged.

The code of DINOv2 and of MRI-CORE knows images alone. Slice by slice with the mean over slices is what is commonly done
with them, and no slice has to be chosen by hand. A slice is as thick as the distance to the next one, so that nothing
lies between two: the volume is smoothed along z before it is sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.data.resample import AxisMap, inside, resample
from mdae.interop.backbone import Backbone
from mdae.interop.raw import prepare_by
from mdae.interop.vit import VisionTransformer
from mdae.networks import StageEncoder

NUM_SLICES = 32  # over a head of 200 mm at most: 6 mm or less apart
AT_ONCE = 32  # slices in a batch
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue within [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
# RAS, 1 mm, the head without a margin, in which slices would be empty; z-scores are brought to [0, 1] afterwards.
CONTRACT = Preprocessing(margin_mm=0.0)


class SliceNetwork(StageEncoder):
    """Volumes of grey values in [0, 1] to their axial slices' class tokens, the only stage, (B, F, 1, 1, slices).

    A slice becomes an image as radiologists look at it, the nose up and the patient's right on the left, in three
    equal colours, normalised as ImageNet. Slices go through the network a few at a time; where gradients are wanted,
    their activations are computed again instead of kept.

    Args:
        encoder: of images.
    """

    in_channels = 1
    first_conv = "encoder.patch_embed.proj"
    mean: Tensor
    std: Tensor

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        self.encoder, self.widths = encoder, (encoder.sizes.width,)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, x: Float[Tensor, "B C D H W"]) -> list[Tensor]:
        images = x.permute(0, 4, 1, 3, 2).flip(3, 4)  # (B, slices, C, rows, columns)
        parts = torch.split(images.flatten(0, 1), AT_ONCE)
        again = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
        tokens = [
            checkpoint(self._embed, part, use_reentrant=False, preserve_rng_state=False)
            if again
            else self._embed(part)
            for part in parts
        ]
        by_slice = torch.cat(tokens).reshape(*images.shape[:2], -1)  # (B, slices, F)
        return [by_slice.transpose(1, 2)[:, :, None, None]]

    def groups(self) -> list[nn.Module]:
        return self.encoder.groups()

    def _embed(self, grey: Float[Tensor, "N C rows columns"]) -> Float[Tensor, "N F"]:
        colours = (grey[:, :, None] - self.mean) / self.std  # (N, C, 3, rows, columns)
        return self.encoder(colours.flatten(1, 2))  # type: ignore[no-any-return]


def head_slices(volume: np.ndarray, background: float, side: int, *, order: Literal[1, 3]) -> np.ndarray:
    """Square slices of a volume (D, H, W): (side, side, NUM_SLICES), float32, within the range of its values.

    The longer of D and H fills the square, the shorter one is centred, with background beside it.

    Args:
        volume: z-scores.
        background: their value outside the head.
        side: of a slice in pixels.
        order: of the spline; photographs are resized by 1 (bilinear) or 3 (bicubic).
    """
    longest = max(volume.shape[:2])
    x, y = (_axis(size, longest, side) for size in volume.shape[:2])
    z = _axis(volume.shape[2], volume.shape[2], NUM_SLICES)
    slices = np.clip(resample(volume, (x, y, z), order=order), volume.min(), volume.max())
    covered = inside(x)[:, None] & inside(y)
    return np.where(covered[..., None], slices, np.float32(background))


def _axis(size: int, extent: int, samples: int) -> AxisMap:
    """Samples that share an extent of voxels evenly, the axis in its middle."""
    scale = extent / samples
    return AxisMap(size, samples, scale, (size - 1) / 2 - scale * (samples - 1) / 2)


def slice_backbone(
    encoder: VisionTransformer,
    *,
    name: str,
    identity: str,
    side: int,
    order: Literal[1, 3],
    grey: Callable[[np.ndarray], np.ndarray],
    grey_in_words: str,
    source: str,
) -> Backbone:
    """A network of images as a backbone of volumes.

    Args:
        encoder: of images.
        name, identity, source: see `Backbone`.
        side: of the images in pixels.
        order: of the spline that brings slices to it.
        grey: slices of z-scores (side, side, slices) to grey values in [0, 1].
        grey_in_words: what `grey` does; part of the key of cached features.
    """

    def to_input(prepared: PreparedScan) -> np.ndarray:
        return grey(head_slices(prepared.data, prepared.record.background, side, order=order))

    return Backbone(
        name=name,
        identity=identity,
        network=SliceNetwork(encoder).eval(),
        preprocessing={
            "contract": CONTRACT.to_dict(),
            "fit": f"axial slices evenly spaced over the head, squared by background, spline of order {order}",
            "grey": grey_in_words,
            "colours": [list(IMAGENET_MEAN), list(IMAGENET_STD)],
            "features": "mean of class tokens over slices",
        },
        prepare=lambda entry: prepare_by(entry, CONTRACT),
        to_input=to_input,
        patch=(side, side, NUM_SLICES),
        source=source,
        spacing_mm=(1.0, 1.0, side / NUM_SLICES),  # a head's box is about as high as it is long
    )
