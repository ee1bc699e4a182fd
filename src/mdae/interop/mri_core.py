"""MRI-CORE: a network of MRI slices, pre-trained as DINOv2 is, from the weights of SAM.

- Paper: Dong et al., MRI-CORE: A foundation model for magnetic resonance imaging, arXiv 2506.12186, 2025: more than 6
  million slices of 110,000 volumes, of 18 places of the body. A reader of its methods quotes that brain, face and neck
  were left out.
- Weights: mazurowski-lab/mri_foundation, Apache License 2.0. Written for `MRI_CORE_vitb.pth` (also
  `mri_foundation.pth`): a training checkpoint of DINOv2 whose `teacher` holds `backbone.*` and the heads of training.
  The backbone is a plain ViT-B/16 with a class token, 197 position embeddings (224 pixels a side), no layer scale, and
  blocks numbered within chunks (`blocks.0.2.*`). This is what two independent readers of the file report.
- Network: as it was pre-trained. The authors' own code pours the weights into SAM's image encoder at 1,024 pixels
  instead: without the class token, with windows in eight of twelve blocks, a neck that is not in the file, and position
  embeddings that a wrong key leaves at 0 (their issue 5).
- Preprocessing: each slice from its least to its greatest value to [0, 1], then ImageNet's mean and deviation by
  colour, as their code does for their own model. Their README names [0, 1] alone. They stretch slices to a square,
  bilinearly; here they are padded to one first, as scanners store them. Slices are axial, evenly spaced over the head
  (`mdae.interop.slices`).
- Features: the class token after the last normalisation, which pre-training trained, averaged over slices.
- Not verified: the released file itself, which was not at hand; which intensities pre-training saw; which features the
  paper's own classification reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, read_checkpoint, weights_file
from mdae.interop.slices import slice_backbone
from mdae.interop.vit import VisionTransformer, ViTSizes

SOURCE = "mazurowski-lab/mri_foundation, Apache-2.0; Dong et al., arXiv 2506.12186"
IGNORED = {
    "mask_token": "stands for hidden patches, of which there are none",
    "dino_head.": "a head of its pre-training",
    "ibot_head.": "a head of its pre-training",
}
CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
FLAT = 1e-6  # standard deviations between least and greatest, up to which a slice is empty


def load_mri_core(path: Path, name: str) -> Backbone:
    """MRI-CORE as a backbone of volumes.

    Args:
        path: `MRI_CORE_vitb.pth`, or the folder that holds it.
        name: for tables.

    Raises:
        ModelError: missing, damaged, or of another layout.
    """
    read = read_checkpoint(
        weights_file(path, ["MRI_CORE_vitb.pth", "mri_foundation.pth"]), wrappers=["teacher"]
    )
    weights = through_numbered(read.weights)
    sizes = ViTSizes.of(weights, read.path)
    network = VisionTransformer(sizes)
    load_strictly(network, weights, read.path, ignore=IGNORED)
    return slice_backbone(
        network,
        name=name,
        identity=read.identity,
        side=sizes.grid * sizes.patch,
        order=1,
        grey=slice_grey,
        grey_in_words="each slice from its least to its greatest value to [0, 1]",
        source=SOURCE,
    )


def through_numbered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a teacher, those of its backbone without that prefix, its blocks numbered through.

    Within its chunk a block already has its number among all blocks.
    """
    plain = {name.removeprefix("backbone."): value for name, value in weights.items()}
    return {CHUNK.sub(r"blocks.\1.", name): value for name, value in plain.items()}


def slice_grey(slices: np.ndarray) -> np.ndarray:
    """Each of the slices (side, side, slices) to [0, 1]; one that is the same everywhere to 0."""
    low, high = slices.min(axis=(0, 1)), slices.max(axis=(0, 1))
    grey = (slices - low) / np.where(high - low > FLAT, high - low, np.inf)
    return grey.astype(np.float32)  # type: ignore[no-any-return]
