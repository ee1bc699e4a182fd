"""BrainIAC: a brain MRI encoder pre-trained by SimCLR on 32,015 scans, in both forms that were released.

Paper: Tak et al., "A generalizable foundation model for analysis of human brain MRI", Nature Neuroscience 2026
(preprint medRxiv 2024.12.02.24317992). Weights: for non-commercial academic research only; on Dropbox, which the README
of AIM-KannLab/BrainIAC names, and on no Hub known to us.

`BrainIAC.ckpt`, since August 2025: `state_dict` with the prefix `backbone.` before MONAI's ViT-B, 96^3 voxels in
patches of 16, no class token. It was written with MONAI 1.3.2 and thus lacks `norm_cross_attn` and `cross_attn`, which
later versions add to every block and never compute. What its authors call the class token and take as features is
therefore the first patch's token after the last norm; so do we. Preprocessing: resized to 96^3 (trilinear), then
z-scored by the voxels that are not 0.

The first release, a ResNet-50 of MONAI (`backbone.conv1`, ...): 128^3 voxels, resized, then scaled to [0, 1]; features
are the mean of layer4.

Either expects scans of the brain alone, which its authors make by N4, rigid registration to a template at 1 mm, and
HD-BET. None of these is done here, as little as in their loader: give it such scans. Axes are those of the file, in
nibabel's order.

Read from the authors' source, their issue threads, and copies of both; no weights could be opened for this file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import ViT
from torch import Tensor, nn

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.errors import ModelError, ScanError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import (
    Checkpoint,
    load_strictly,
    part_of,
    read_checkpoint,
    weights_file,
    without_prefix,
)
from mdae.interop.medicalnet import ResNetEncoder, resnet_of
from mdae.interop.raw import RawScan, as_in_file, read_raw, recorded
from mdae.networks import StageEncoder
from mdae.types import Shape3

CHECKPOINT = "BrainIAC.ckpt"
RESNET_SIZE: Shape3 = (128, 128, 128)
HEAD_CHANNELS = 64  # of an attention head, as in every ViT-B; no shape tells it
UNUSED = ("norm_cross_attn", "cross_attn")
POSITIONS, PATCHES = "patch_embedding.position_embeddings", "patch_embedding.patch_embeddings.weight"
BLOCK = re.compile(r"blocks\.(\d+)\.")
MEND = f"give {CHECKPOINT}"

logger = logging.getLogger(__name__)


class FirstToken(StageEncoder):
    """The first token after the last norm as the only stage, of one voxel: what BrainIAC's authors take as features."""

    in_channels = 1
    first_conv = "vit.patch_embedding.patch_embeddings"

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit, self.widths = vit, (vit.norm.normalized_shape[0],)

    def forward(self, x: Tensor) -> list[Tensor]:
        tokens: Tensor = self.vit(x)[0]
        return [tokens[:, 0, :, None, None, None]]

    def groups(self) -> list[nn.Module]:
        return [self.vit.patch_embedding, *self.vit.blocks, self.vit.norm]


@dataclass(frozen=True)
class Intensities:
    """Values of a resized scan as a network wants them; a value times std plus mean is the intensity."""

    data: np.ndarray
    mean: float
    std: float
    background: float


def load_brainiac(path: Path, name: str) -> Backbone:
    """An encoder of BrainIAC.

    Args:
        path: `BrainIAC.ckpt`, or the folder with it.
        name: for tables.

    Raises:
        ModelError: no such checkpoint, or of another layout.
    """
    checkpoint = read_checkpoint(weights_file(path, [CHECKPOINT]))
    weights = without_prefix(part_of(checkpoint.weights, "backbone.")) or checkpoint.weights
    if heads := len(checkpoint.weights) - len(weights):
        logger.info("%s: %d weights left out, not of the backbone: a head", checkpoint.path, heads)
    if POSITIONS in weights:
        return _vit_backbone(weights, checkpoint, name)
    return _resnet_backbone(weights, checkpoint, name)


def _vit_backbone(weights: Mapping[str, Tensor], checkpoint: Checkpoint, name: str) -> Backbone:
    vit, size = vit_of(weights, checkpoint.path)
    ignore = {
        f"blocks.{index}.{part}.": "cross-attention, which is not computed"
        for index in range(len(vit.blocks))
        for part in UNUSED
    }
    load_strictly(vit, weights, checkpoint.path, ignore=ignore)
    return Backbone(
        name=name,
        identity=checkpoint.identity,
        network=FirstToken(vit).eval(),
        preprocessing={
            "brainiac": 1,
            "resize": "trilinear",
            "size": list(size),
            "normalise": "z-score, not 0",
        },
        prepare=lambda entry: prepare_brainiac(entry, size, z_scored),
        to_input=as_in_file,
        patch=size,
        source="BrainIAC, ViT-B; Tak et al., Nature Neuroscience 2026; non-commercial",
    )


def _resnet_backbone(weights: Mapping[str, Tensor], checkpoint: Checkpoint, name: str) -> Backbone:
    resnet = resnet_of(weights, checkpoint.path)
    load_strictly(resnet, weights, checkpoint.path)
    return Backbone(
        name=name,
        identity=checkpoint.identity,
        network=ResNetEncoder(resnet).eval(),
        preprocessing={
            "brainiac": 2,
            "resize": "trilinear",
            "size": list(RESNET_SIZE),
            "normalise": "[0, 1]",
        },
        prepare=lambda entry: prepare_brainiac(entry, RESNET_SIZE, scaled),
        to_input=as_in_file,
        patch=RESNET_SIZE,
        source="BrainIAC, ResNet-50; Tak et al., medRxiv 2024; non-commercial",
    )


def vit_of(weights: Mapping[str, Tensor], where: Path) -> tuple[ViT, Shape3]:
    """MONAI's ViT of the sizes that the shapes of weights tell, without what it never computes, and its input's sides.

    Raises:
        ModelError: weights of another network.
    """
    depth = 1 + max((int(match[1]) for name in weights if (match := BLOCK.match(name))), default=-1)
    try:
        _, tokens, width = weights[POSITIONS].shape
        _, in_channels, patch, *_ = weights[PATCHES].shape
        hidden = len(weights["blocks.0.mlp.linear1.weight"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"not a 3D ViT of MONAI ({error})", where=where, mend=MEND) from error
    grid = round(tokens ** (1 / 3))
    if in_channels != 1 or grid**3 != tokens:
        what = f"a ViT of {in_channels} contrasts and {tokens} tokens, instead of one and a cube"
        raise ModelError(what, where=where, mend=MEND)
    size = (grid * patch,) * 3
    heads = max(1, width // HEAD_CHANNELS)
    vit = ViT(1, size, (patch,) * 3, hidden_size=width, mlp_dim=hidden, num_layers=depth, num_heads=heads)
    for block in vit.blocks:
        block.norm_cross_attn = nn.Identity()
    return vit, size


def prepare_brainiac(
    entry: ScanEntry, size: Shape3, normalise: Callable[[np.ndarray, RawScan], Intensities]
) -> PreparedScan:
    """Resize and normalise; raises `ScanError` for an unfit scan."""
    raw = read_raw(entry)
    volume = torch.from_numpy(np.ascontiguousarray(raw.data))[None, None]
    resized = F.interpolate(volume, size, mode="trilinear", align_corners=False)[0, 0].numpy()
    values = normalise(resized, raw)
    scale = tuple(n / m for n, m in zip(raw.data.shape, size, strict=True))
    return recorded(raw, values.data, scale, mean=values.mean, std=values.std, background=values.background)


def z_scored(resized: np.ndarray, raw: RawScan) -> Intensities:
    """Z-scores by the voxels that are not 0, which stay 0."""
    present = resized != 0
    mean = float(resized[present].mean(dtype=np.float64)) if present.any() else 0.0
    std = float(resized[present].std(dtype=np.float64)) if present.any() else 0.0
    if not std > 0:
        raise ScanError("its intensities are constant", where=raw.scan.path, mend="look at the file")
    data = np.where(present, (resized - np.float32(mean)) / np.float32(std), np.float32(0))
    return Intensities(data, mean, std, background=0.0)


def scaled(resized: np.ndarray, raw: RawScan) -> Intensities:
    """Intensities brought to [0, 1]."""
    low, high = float(resized.min()), float(resized.max())
    if not high > low:
        raise ScanError("its intensities are constant", where=raw.scan.path, mend="look at the file")
    return Intensities((resized - np.float32(low)) / np.float32(high - low), low, high - low, background=0.0)
