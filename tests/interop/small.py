"""Small checkpoints in the layouts of strangers' releases, for tests: `SMALL` has one for every kind in the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from monai.networks.nets import ViT
from monai.networks.nets.resnet import ResNet
from torch import nn

from mdae.data.catalogue import ScanEntry
from mdae.seeding import torch_generator


@dataclass(frozen=True)
class Small:
    """How to write a small checkpoint.

    Attributes:
        write: from a folder and a seed of its weights to the path that `open_stranger` takes.
        keys: one weight of the encoder under all names that the file has for it.
    """

    write: Callable[[Path, int], Path]
    keys: tuple[str, ...]


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Weights and running statistics that no initialisation gives; in evaluation mode."""
    generator = torch_generator(seed, "small checkpoint")
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                scale = max(1, value[0].numel()) ** -0.5 if value.dim() > 1 else 0.3
                positive = name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1)
                value.copy_(1 + 0.3 * noise.abs() if positive else scale * noise)
    return network.eval()


def res_enc(seed: int = 0) -> ResidualEncoderUNet:
    network = ResidualEncoderUNet(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 6, 8],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_blocks_per_stage=[1, 2, 1],
        num_classes=1,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return randomise(network, seed)


def adaptation_plan(**changes: Any) -> dict[str, Any]:
    """As nnssl writes it, its patch made small."""
    configuration = {
        "data_identifier": "nnsslPlans_onemmiso",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "onemmiso",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "spacing": [1, 1, 1],
        "patch_size": [160, 160, 160],
    }
    plan = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None},
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "configurations": {"onemmiso": configuration},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [16, 24, 20],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    return {**plan, **changes}


def write_nnssl(folder: Path, seed: int = 0, plan: dict[str, Any] | None = None) -> Path:
    """The folder of a checkpoint with its plan beside it."""
    weights = res_enc(seed).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"network_weights": weights, "init_args": {"fold": "all"}, "trainer_name": "BaseMAETrainer"}
    torch.save(content, folder / "checkpoint_final.pth")
    (folder / "adaptation_plan.json").write_text(json.dumps(plan or adaptation_plan()))
    return folder


def small_resnet(seed: int = 0, **options: Any) -> ResNet:
    sizes = {"block": "bottleneck", "layers": [1, 2, 1, 1], "block_inplanes": [4, 4, 6, 8]}
    fixed = {"n_input_channels": 1, "conv1_t_stride": 2, "feed_forward": False, "bias_downsample": False}
    return randomise(ResNet(**{**sizes, **fixed, **options}), seed)


def write_medicalnet(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"module.{name}": value for name, value in small_resnet(seed).state_dict().items()}
    torch.save({"state_dict": weights}, folder / "resnet_50_23dataset.pth")
    return folder / "resnet_50_23dataset.pth"


def small_vit(seed: int = 0) -> ViT:
    sizes = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 1}
    return randomise(ViT(1, (24, 24, 24), (8, 8, 8), **sizes), seed)


def write_brainiac(folder: Path, seed: int = 0) -> Path:
    """As MONAI 1.3.2 wrote it: nothing of cross-attention; a projection head beside the backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"backbone.{k}": v for k, v in small_vit(seed).state_dict().items() if "cross_attn" not in k}
    weights["projection_head.0.weight"] = torch.ones(4, 24)
    torch.save({"state_dict": weights, "epoch": 18}, folder / "BrainIAC.ckpt")
    return folder / "BrainIAC.ckpt"


SMALL: dict[str, Small] = {
    "nnssl": Small(
        write_nnssl,
        (
            "encoder.stages.1.blocks.0.conv1.conv.weight",
            "encoder.stages.1.blocks.0.conv1.all_modules.0.weight",
        ),
    ),
    "medicalnet": Small(write_medicalnet, ("module.layer2.0.conv2.weight",)),
    "brainiac": Small(write_brainiac, ("backbone.blocks.1.attn.qkv.weight",)),
}


def write_scan(
    path: Path,
    shape: tuple[int, int, int] = (30, 34, 28),
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    axes: str = "RAS",
    seed: int = 0,
) -> ScanEntry:
    """A made-up head of smooth noise, 0 around it, in a file with the given axes."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    waves = sum(np.sin(rng.normal(0, 4, 3) @ grid.reshape(3, -1) + rng.uniform(0, 6)) for _ in range(6))
    data = (100 + 10 * waves.reshape(shape)) * ((grid**2).sum(0) < 0.8)
    affine = np.diag([*spacing_mm, 1.0])
    orientation = nib.orientations.axcodes2ornt(axes)
    affine = affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return ScanEntry("scan", "subject", "", "T1w", path)
