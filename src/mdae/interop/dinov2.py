"""DINOv2: networks of photographs, pre-trained without labels.

- Paper: Oquab et al., DINOv2: Learning robust visual features without supervision, TMLR 2024 (arXiv 2304.07193); with
  registers: Darcet et al., Vision transformers need registers, ICLR 2024 (arXiv 2309.16588).
- Weights: facebookresearch/dinov2, Apache License 2.0, trained on LVD-142M. Written for `dinov2_vits14_pretrain.pth`,
  `dinov2_vitb14_pretrain.pth`, `dinov2_vitl14_pretrain.pth`, those with `_reg4`, and the same networks as
  `model.safetensors` of the transformers library (`facebook/dinov2-base`). ViT-g, whose perceptron is another, is not
  read.
- Preprocessing: theirs for photographs is 224 pixels a side, bicubic, and ImageNet's mean and deviation by colour. For
  volumes there is none of theirs; here the volume's intensities between two percentiles become [0, 1], each axial slice
  is padded to a square and brought to 224 pixels, grey in three colours (`mdae.interop.slices`). Photographs are
  cropped in the middle by them; here nothing of the head is cut off.
- Features: the class token after the last normalisation, which their own linear evaluation uses, averaged over slices.
- Not verified: the released files themselves, which were not at hand. Names and shapes are those that their code loads
  strictly and those that the transformers library writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, read_checkpoint, weights_file
from mdae.interop.slices import slice_backbone
from mdae.interop.vit import VisionTransformer, ViTSizes

SIDE = 224  # pixels
PERCENTILES = (0.5, 99.5)  # of a volume's slices: black and white
FLAT = 1e-6  # standard deviations between them, at least
SOURCE = "facebookresearch/dinov2 (LVD-142M), Apache-2.0; Oquab et al., TMLR 2024"
IGNORED = {"mask_token": "stands for hidden patches, of which there are none"}
# The transformers library's names, in order, and ours.
RENAMED = (
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
PARTS = ("query", "key", "value")


def load_dinov2(path: Path, name: str) -> Backbone:
    """DINOv2 as a backbone of volumes.

    Args:
        path: the file of the weights, of either layout, or the folder that holds it.
        name: for tables.

    Raises:
        ModelError: missing, damaged, or of another layout.
    """
    read = read_checkpoint(weights_file(path, ["model.safetensors"]))
    weights = from_transformers(read.weights)
    network = VisionTransformer(ViTSizes.of(weights, read.path))
    load_strictly(network, weights, read.path, ignore=IGNORED)
    return slice_backbone(
        network,
        name=name,
        identity=read.identity,
        side=SIDE,
        order=3,
        grey=volume_grey,
        grey_in_words=f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of the slices to [0, 1]",
        source=SOURCE,
    )


def volume_grey(slices: np.ndarray) -> np.ndarray:
    """Slices (side, side, slices) to grey values in [0, 1]: black and white at two percentiles of all of them."""
    low, high = np.percentile(slices, PERCENTILES)
    grey = (slices - low) / max(high - low, FLAT)
    return np.clip(grey, 0, 1).astype(np.float32)  # type: ignore[no-any-return]


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of the released files; those already named so are left as they are.

    The transformers library names them otherwise, and keeps query, key and value apart.
    """
    if not any("embeddings." in name for name in weights):
        return dict(weights)
    found = {}
    for name, value in weights.items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        found[name] = value
    for name in [name for name in found if ".attention.attention.query." in name]:
        three = [name.replace(".query.", f".{part}.") for part in PARTS]
        if all(part in found for part in three):
            joined = torch.cat([found.pop(part) for part in three])
            found[name.replace(".attention.attention.query.", ".attn.qkv.")] = joined
    return found
