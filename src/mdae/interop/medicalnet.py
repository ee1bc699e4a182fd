"""MedicalNet: 3D ResNets pre-trained on the segmentation of 23 data sets of CT and MR.

Paper: Chen, Ma and Zheng, "Med3D: Transfer learning for 3D medical image analysis", arXiv:1904.00625. Weights: MIT.
Written for `resnet_50_23dataset.pth` of `TencentMedicalNet/MedicalNet-Resnet50` on the Hugging Face Hub; the depths
10, 18, 34, 101, 152 and 200 have the same layout.

File: `state_dict` with the prefix `module.`; conv1, bn1, layer1 to layer4, perhaps conv_seg. MONAI's ResNet has these
names, without a bias in its shortcuts, but it halves the resolution in layer3 and layer4, where MedicalNet keeps it and
dilates by 2 and 4 instead (an output of an eighth of the input). The weights fit either, so MONAI's network is changed.

Preprocessing, that of its own evaluation: the whole volume resized to 56 x 448 x 448 by the nearest voxel, corners on
corners; z-scored by the voxels above 0; voxels of exactly 0 become standard normal noise (here drawn from the scan's
content, so that features repeat). The axes are those of the file, the last one first: slices, rows, columns.
Features: the mean over the voxels of layer4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from monai.networks.nets.resnet import ResNet, ResNetBlock
from scipy import ndimage
from torch import Tensor, nn

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, to_ras
from mdae.errors import ModelError, ScanError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, read_checkpoint, weights_file
from mdae.interop.raw import as_in_file, read_raw, recorded
from mdae.networks import StageEncoder
from mdae.seeding import numpy_generator
from mdae.types import Shape3

CHECKPOINT = "resnet_50_23dataset.pth"
SIZE: Shape3 = (56, 448, 448)  # slices, rows, columns
LAYERS = ("layer1", "layer2", "layer3", "layer4")
DILATIONS = {"layer3": 2, "layer4": 4}
BLOCK = re.compile(r"layer(\d)\.(\d+)\.")


class ResNetEncoder(StageEncoder):
    """The last stage of a ResNet of MONAI, of one contrast.

    Args:
        resnet: whose layers these are; what comes after them is not used.
    """

    in_channels = 1
    first_conv = "conv1"

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.widths = (int(resnet.in_planes),)
        self.conv1, self.bn1, self.act = resnet.conv1, resnet.bn1, resnet.act
        self.maxpool = nn.Identity() if resnet.no_max_pool else resnet.maxpool
        for name in LAYERS:
            self.add_module(name, resnet.get_submodule(name))

    def forward(self, x: Float[Tensor, "B C D H W"]) -> list[Tensor]:
        for layer in self.children():
            x = layer(x)
        return [x]

    def groups(self) -> list[nn.Module]:
        return [nn.ModuleList([self.conv1, self.bn1]), *map(self.get_submodule, LAYERS)]


def load_medicalnet(path: Path, name: str) -> Backbone:
    """An encoder of MedicalNet.

    Args:
        path: `resnet_50_23dataset.pth`, or the folder with it.
        name: for tables.

    Raises:
        ModelError: no such checkpoint, or of another layout.
    """
    checkpoint = read_checkpoint(weights_file(path, [CHECKPOINT]))
    resnet = resnet_of(checkpoint.weights, checkpoint.path)
    dilate(resnet)
    ignore = {"conv_seg.": "the segmentation head of its pre-training"}
    load_strictly(resnet, checkpoint.weights, checkpoint.path, ignore=ignore)
    return Backbone(
        name=name,
        identity=checkpoint.identity,
        network=ResNetEncoder(resnet).eval(),
        preprocessing={"medicalnet": 2, "resize": "nearest", "size": list(SIZE), "axes": "file, last first"},
        prepare=prepare_medicalnet,
        to_input=medicalnet_input,
        patch=SIZE,
        spacing_mm=(SIZE[1] / SIZE[0], 1.0, 1.0),  # of a field of view as deep as wide
        source="MedicalNet; Chen et al., arXiv:1904.00625; MIT",
    )


def resnet_of(weights: Mapping[str, Tensor], where: Path) -> ResNet:
    """MONAI's 3D ResNet of the sizes that the shapes of weights tell, without its last layer.

    Raises:
        ModelError: weights of another network.
    """
    depths: dict[int, int] = {}
    for name in weights:
        if match := BLOCK.match(name):
            depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]) + 1)
    try:
        channels = [len(weights[f"layer{layer}.0.conv1.weight"]) for layer in (1, 2, 3, 4)]
        in_channels = weights["conv1.weight"].shape[1]
    except KeyError as error:
        raise ModelError(
            f"not a 3D ResNet: no {error}, but e.g. {', '.join(list(weights)[:3])}",
            where=where,
            mend="give a checkpoint with conv1 and layer1 to layer4",
        ) from error
    if in_channels != 1:
        raise ModelError(
            f"takes {in_channels} contrasts", where=where, mend="give an encoder of one contrast"
        )
    return ResNet(
        block="bottleneck" if "layer1.0.conv3.weight" in weights else "basic",
        layers=[depths[layer] for layer in (1, 2, 3, 4)],
        block_inplanes=channels,
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type="B" if "layer2.0.downsample.0.weight" in weights else "A",
        feed_forward=False,
        bias_downsample="layer2.0.downsample.0.bias" in weights,
    )


def dilate(network: ResNet) -> None:
    """Let layer3 and layer4 keep the resolution and dilate their convolutions, as MedicalNet does."""
    for name, dilation in DILATIONS.items():
        for block in network.get_submodule(name):
            for module in block.modules():
                if isinstance(module, nn.Conv3d):
                    module.stride = (1, 1, 1)
                    if module.kernel_size == (3, 3, 3):
                        module.dilation = module.padding = (dilation,) * 3
            if isinstance(block.downsample, partial):  # shortcut A: padded with zero channels, no weights
                planes = block.bn2.num_features if isinstance(block, ResNetBlock) else block.bn3.num_features
                block.downsample = partial(network._downsample_basic_block, planes=planes, stride=1)


def prepare_medicalnet(entry: ScanEntry) -> PreparedScan:
    """Resize, z-score by the voxels above 0, noise where there is nothing; raises `ScanError` for an unfit scan."""
    raw = read_raw(entry)
    zoom = [new / side for new, side in zip(reversed(SIZE), raw.scan.data.shape, strict=True)]
    data, _ = to_ras(ndimage.zoom(raw.scan.data, zoom, order=0), raw.scan.affine)
    present = data[data > 0]
    mean = float(present.mean(dtype=np.float64)) if present.size else 0.0
    std = float(present.std(dtype=np.float64)) if present.size else 0.0
    if not std > 0:
        raise ScanError("the intensities above 0 are constant", where=entry.path, mend="look at the file")
    scale = tuple((n - 1) / (m - 1) for n, m in zip(raw.data.shape, data.shape, strict=True))
    z_scores = (data - np.float32(mean)) / np.float32(std)
    prepared = recorded(raw, z_scores, scale, mean=mean, std=std, background=0.0)
    empty = data == 0
    generator = numpy_generator(0, "medicalnet", int(prepared.record.content, 16))
    prepared.data[empty] = generator.standard_normal(int(empty.sum()), dtype=np.float32)
    return prepared


def medicalnet_input(prepared: PreparedScan) -> np.ndarray:
    """The axes of the file, the last one first."""
    return np.ascontiguousarray(as_in_file(prepared).transpose(2, 1, 0))
