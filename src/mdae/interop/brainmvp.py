"""BrainMVP: a UniFormer and a U-Net pre-trained on brain MRI of eight contrasts, one contrast at a time.

- Paper: Rui et al., Multi-modal vision pre-training for medical image analysis, CVPR 2025 (arXiv 2410.10604): 16,022
  scans of 3,755 patients (BraTS 2021, BraTS 2023 SSA and MEN, UCSF-PDGM, IXI).
- Weights: shaohao011/BrainMVP, without a licence: ask the authors before you pass anything on. Written for
  `BrainMVP_uniformer.pt` and `BrainMVP_unet.pt`: training checkpoints of which `state_dict` holds the encoder, the
  decoder and `rep_template`, with or without `module.` in front. The UniFormer lies under `encoder.uniformer.`, takes
  one contrast, and is uniformer_small; the U-Net's `conv1a` to `conv4d` lie at the top. A reader of the UniFormer's
  file counted 352 tensors of 105,744,016 numbers; the code that wrote it makes as many, and 329 of them, all of its
  encoder, are loaded here.
- Preprocessing: RAS, 1 mm (linear), cropped to what is not 0, intensities from the 5th to the 95th percentile of the
  crop to [0, 1], cropped to what is above 0; for classification then brought to 128 x 128 x 64, of which the middle
  96 x 96 x 64 are seen (appendix I of the paper, as a user of it quotes it; pre-training saw 96^3 at 1 mm).
- Features: the mean over the voxels of the last stage. The paper does not say what its classifier reads.
- Not verified: the released files themselves, which were not at hand; no reader of the U-Net's file was found, its
  names are those of the code that wrote it. How the paper resizes: here linear, smoothed first where voxels get wider.
  Whether it stripped skulls: nothing is stripped here, and BraTS, two thirds of what was learnt from, has brains alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.data.preprocess import NNSSL, PreparedScan
from mdae.data.resample import AxisMap, resample
from mdae.errors import ModelError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, read_checkpoint, weights_file
from mdae.interop.raw import prepare_by
from mdae.interop.uniformer import UniFormer, UniFormerSizes
from mdae.networks import StageEncoder
from mdae.types import Shape3

CONTRACT = replace(
    NNSSL, order=1
)  # RAS, 1 mm, cropped to what is not 0; its z-scores go to [0, 1] afterwards
PERCENTILES = (5, 95)  # black and white
RESIZED: Shape3 = (128, 128, 64)
SEEN: Shape3 = (96, 96, 64)  # of these, the middle
FLAT = 1e-6  # standard deviations between the percentiles, at least
SOURCE = "shaohao011/BrainMVP, no licence given; Rui et al., CVPR 2025"
UNIFORMER, STEM = "encoder.uniformer.", "conv1a.weight"
NORM_GROUPS = 8
IGNORED = {
    "decoder.": "the decoder of its pre-training",
    "up": "the decoder of its pre-training",
    "rep_template": "the templates of its pre-training",
}


class UNetBlock(nn.Module):
    """Two convolutions, each after group normalisation and ReLU, and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gn1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.gn2 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.gn1(x)))
        return x + self.conv2(F.relu(self.gn2(out)))  # type: ignore[no-any-return]


class UNetEncoder(StageEncoder):
    """The encoder of BrainMVP's U-Net: volumes of one contrast to its last stage.

    Args:
        width: channels of the first stage; each of the four has twice as many as the one before.
    """

    in_channels = 1
    first_conv = "conv1a"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1a = nn.Conv3d(1, width, 3, padding=1)
        self.conv1b = UNetBlock(width)
        for stage, blocks in ((2, "ab"), (3, "ab"), (4, "abcd")):
            self.add_module(f"ds{stage - 1}", nn.Conv3d(width, 2 * width, 3, stride=2, padding=1))
            width *= 2
            for block in blocks:
                self.add_module(f"conv{stage}{block}", UNetBlock(width))
        self.widths = (width,)

    def forward(self, x: Float[Tensor, "B C D H W"]) -> list[Tensor]:
        for layer in self.children():
            x = layer(x)
        return [x]

    def groups(self) -> list[nn.Module]:
        """Its four stages, each with the convolution that leads to it."""
        layers, ends = list(self.children()), (0, 2, 5, 8, 13)
        return [nn.ModuleList(layers[first:end]) for first, end in pairwise(ends)]


def load_brainmvp(path: Path, name: str) -> Backbone:
    """BrainMVP's UniFormer or U-Net as a backbone.

    Args:
        path: `BrainMVP_uniformer.pt` or `BrainMVP_unet.pt`, or the folder that holds one of them.
        name: for tables.

    Raises:
        ModelError: missing, damaged, or of another layout.
    """
    read = read_checkpoint(weights_file(path, ["BrainMVP_uniformer.pt", "BrainMVP_unet.pt"]))
    network: UniFormer | UNetEncoder
    if any(key.startswith(UNIFORMER) for key in read.weights):
        weights = {key.removeprefix(UNIFORMER): value for key, value in read.weights.items()}
        network = UniFormer(UniFormerSizes.of(weights, read.path))
    else:
        weights = read.weights
        network = UNetEncoder(_width(weights, read.path))
    load_strictly(network, weights, read.path, ignore=IGNORED)
    return Backbone(
        name=name,
        identity=read.identity,
        network=network.eval(),
        preprocessing={
            "contract": CONTRACT.to_dict(),
            "fit": "percentiles 5 and 95 to [0, 1], cropped to what is above 0, 128 x 128 x 64, the middle",
        },
        prepare=lambda entry: prepare_by(entry, CONTRACT),
        to_input=brainmvp_input,
        patch=SEEN,
        source=SOURCE,
        spacing_mm=(1.0, 1.0, 2.0),  # a head's box is about as high as wide, and gets half as many voxels
    )


def brainmvp_input(prepared: PreparedScan) -> np.ndarray:
    """A prepared scan to what the network sees, (96, 96, 64), float32 in [0, 1]."""
    low, high = np.percentile(prepared.data, PERCENTILES)
    volume = np.clip((prepared.data - low) / max(high - low, FLAT), 0, 1).astype(np.float32)
    for axis in range(3):
        where = np.flatnonzero(volume.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(where):
            volume = volume.take(range(where[0], where[-1] + 1), axis=axis)
    x, y, z = (
        AxisMap(size, seen, size / whole, (size - 1) / 2 - size / whole * (seen - 1) / 2)
        for size, whole, seen in zip(volume.shape, RESIZED, SEEN, strict=True)
    )
    return np.ascontiguousarray(resample(volume, (x, y, z), order=1))


def _width(weights: Mapping[str, Tensor], where: Path) -> int:
    """Channels of the U-Net's first stage."""
    if STEM not in weights or weights[STEM].shape[1] != 1:
        raise ModelError(
            f"neither a UniFormer ({UNIFORMER}*) nor a U-Net of one contrast ({STEM}), but "
            f"{', '.join(list(weights)[:3])}",
            where=where,
            mend="give BrainMVP_uniformer.pt or BrainMVP_unet.pt",
        )
    return len(weights[STEM])
