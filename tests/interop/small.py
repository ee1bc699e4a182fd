"""Small checkpoints in the layouts of third-party releases: `SMALL` has one for every kind in the registry."""

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
        write: from a folder and a seed of its weights to the path that `open_third_party` takes.
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
    sizes = {"block": "bottleneck", "layers": [1, 2, 1, 1], "block_inplanes": [2, 3, 4, 5]}
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


def vit_layout(
    width: int = 64, depth: int = 2, patch: int = 14, grid: int = 5, registers: int = 0, scaled: bool = True
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file of facebookresearch/dinov2."""
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
        "ls2.gamma": (width,),
    }
    blocks = {
        f"blocks.{number}.{name}": shape
        for number in range(depth)
        for name, shape in block.items()
        if scaled or not name.startswith("ls")
    }
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid**2, width),
        **({"register_tokens": (1, registers, width)} if registers else {}),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **blocks,
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def uniformer_layout(
    widths: tuple[int, ...] = (8, 8, 64, 64), depths: tuple[int, ...] = (1, 2, 1, 1)
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder of BrainMVP's UniFormer."""
    layout: dict[str, tuple[int, ...]] = {}
    for stage, (before, width, depth) in enumerate(zip((1, *widths), widths, depths, strict=False), start=1):
        kernels = (1, 1, 1) if stage <= 2 else ()
        patch = f"patch_embed{stage}"
        layout |= {f"{patch}.proj.weight": (width, before, 2, 2, 2), f"{patch}.proj.bias": (width,)}
        layout |= {f"{patch}.norm.weight": (width,), f"{patch}.norm.bias": (width,)}
        weights = {"pos_embed": (width, 1, 3, 3, 3), "norm1": (width,), "norm2": (width,)}
        weights |= {"mlp.fc1": (4 * width, width, *kernels), "mlp.fc2": (width, 4 * width, *kernels)}
        if stage <= 2:
            weights |= {"conv1": (width, width, 1, 1, 1), "conv2": (width, width, 1, 1, 1)}
            weights |= {"attn": (width, 1, 5, 5, 5)}
        else:
            weights |= {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        for number in range(depth):
            for name, shape in weights.items():
                layout[f"blocks{stage}.{number}.{name}.weight"] = shape
                layout[f"blocks{stage}.{number}.{name}.bias"] = shape[:1]
                if stage <= 2 and name.startswith("norm"):
                    layout |= batch_statistics(f"blocks{stage}.{number}.{name}", width)
    return layout | {"norm.weight": widths[3:], "norm.bias": widths[3:]} | batch_statistics("norm", widths[3])


def batch_statistics(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }


def unet_layout(width: int = 8) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder of BrainMVP's U-Net."""
    layout: dict[str, tuple[int, ...]] = {"conv1a.weight": (width, 1, 3, 3, 3), "conv1a.bias": (width,)}
    for stage, blocks in enumerate(("b", "ab", "ab", "abcd"), start=1):
        if stage > 1:
            layout[f"ds{stage - 1}.weight"] = (2 * width, width, 3, 3, 3)
            layout[f"ds{stage - 1}.bias"] = (2 * width,)
            width *= 2
        for block in blocks:
            for name, shape in {
                "gn1": (),
                "conv1": (width, 3, 3, 3),
                "gn2": (),
                "conv2": (width, 3, 3, 3),
            }.items():
                layout[f"conv{stage}{block}.{name}.weight"] = (width, *shape)
                layout[f"conv{stage}{block}.{name}.bias"] = (width,)
    return layout


def drawn(layout: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a layout that no initialisation gives: none is 0 or 1, factors and variances are positive."""
    generator = torch_generator(seed, "small checkpoint")
    weights = {}
    for name, shape in layout.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith(("running_var", "gamma")) or (name.endswith("weight") and len(shape) == 1):
            weights[name] = 0.5 + 0.3 * noise.abs()
        elif name.endswith("weight"):
            weights[name] = noise * max(1, noise[0].numel()) ** -0.5
        else:
            weights[name] = 0.3 * noise
    return weights


def write_dinov2(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(drawn(vit_layout(), seed), folder / "dinov2_vits14_pretrain.pth")
    return folder / "dinov2_vits14_pretrain.pth"


def mri_core_teacher(seed: int = 0) -> dict[str, torch.Tensor]:
    """As DINOv2's training saves it: blocks within chunks, heads beside the backbone."""
    weights = drawn(vit_layout(patch=16, grid=4, depth=4, scaled=False), seed)
    teacher = {"dino_head.mlp.0.weight": torch.ones(4, 64), "dino_head.last_layer.weight_g": torch.ones(8, 1)}
    for name, value in weights.items():
        if name.startswith("blocks."):
            name = f"blocks.{int(name.split('.')[1]) // 2}.{name.removeprefix('blocks.')}"
        teacher[f"backbone.{name}"] = value
    return teacher


def write_mri_core(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": mri_core_teacher(seed)}, folder / "MRI_CORE_vitb.pth")
    return folder / "MRI_CORE_vitb.pth"


def write_brainmvp(folder: Path, seed: int = 0) -> Path:
    """As its training saves it: all of the model, with the state of training beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"module.encoder.uniformer.{k}": v for k, v in drawn(uniformer_layout(), seed).items()}
    weights["module.rep_template"] = torch.zeros(8, 4, 4, 3)
    weights["module.decoder.decoder5.transp_conv.conv.weight"] = torch.ones(2, 2)
    content = {"current_epoch": 1500, "state_dict": weights, "optimizer": {"state": {}}, "val_best": 1e8}
    torch.save(content, folder / "BrainMVP_uniformer.pt")
    return folder / "BrainMVP_uniformer.pt"


SMALL: dict[str, Small] = {
    "nnssl": Small(
        write_nnssl,
        (
            "encoder.stages.1.blocks.1.conv2.conv.weight",
            "encoder.stages.1.blocks.1.conv2.all_modules.0.weight",
        ),
    ),
    "medicalnet": Small(write_medicalnet, ("module.layer2.0.conv2.weight",)),
    "brainiac": Small(write_brainiac, ("backbone.blocks.1.attn.qkv.weight",)),
    "dinov2": Small(write_dinov2, ("blocks.1.attn.qkv.weight",)),
    "mri-core": Small(write_mri_core, ("backbone.blocks.1.3.attn.qkv.weight",)),
    "brainmvp": Small(write_brainmvp, ("module.encoder.uniformer.blocks3.0.attn.qkv.weight",)),
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
