"""Our networks as nnU-Net's: weights under the names of its ResidualEncoderUNet, and a plan that builds that network.

Nothing here imports nnU-Net. The time conditioning is folded at t = 0, the first convolution takes as many channels as
the data set has contrasts, and the segmentation heads are left to nnU-Net, which draws them anew in any case.

Axes: our networks have seen (x, y, z) of scans turned to RAS, nnU-Net reads arrays as (z, y, x). The kernels' axes are
turned likewise, so that a volume in nnU-Net's order gives what it gives ours, in nnU-Net's order: plans need not
transpose. They read with `NibabelIOWithReorient`, which turns scans to RAS and segmentations back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdae.data.intensity import Intensity, Window, ZScore
from mdae.errors import ConfigError
from mdae.files import atomic_write
from mdae.networks import Network
from mdae.networks.norm import NORM_EPS
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.types import Shape3, Spacing

CONFIGURATION = "3d_fullres"
READER = "NibabelIOWithReorient"
ENCODER, DECODER, HEADS = "encoder.", "decoder.", "decoder.seg_layers."
PARTS = {
    ".conv.": ".all_modules.0.",
    ".norm.": ".all_modules.1.",
}  # a convolution's second name for its parts


def unet_of(network: Network) -> ResidualUNet:
    """The network, if it is the one that nnU-Net builds too; else `ConfigError`."""
    if not isinstance(network, ResidualUNet):
        raise ConfigError(
            f"nnU-Net builds residual U-Nets, not {type(network).__name__}",
            mend="use a model of a U-Net preset",
        )
    return network


def nnunet_weights(network: ResidualUNet, num_channels: int, *, t: float = 0.0) -> dict[str, Tensor]:
    """All weights but the heads', folded at time t, under the names of nnU-Net's ResidualEncoderUNet.

    There every convolution has its parts under two names and the decoder holds the encoder once more, so most weights
    occur several times. The stem's are repeated over the input channels and divided by their number: the same volume in
    every channel gives what the volume gave alone.

    Args:
        network: it stays as it is.
        num_channels: contrasts of the data set; a multiple of the network's own.
        t: in [0, 1].

    Returns:
        Names to tensors on the CPU.

    Raises:
        ConfigError: a number of channels that the stem cannot be widened to.
    """
    own = network.in_channels
    if num_channels < own or num_channels % own:
        raise ConfigError(
            f"a network of {own} channels for data of {num_channels}", mend=f"use a multiple of {own}"
        )
    plain = network.at(t)
    encoder, decoder = plain.encoder, plain.decoder
    encoder.widen(num_channels // own)
    weights = {f"{ENCODER}{name}": value for name, value in encoder.state_dict().items()}
    weights |= {f"{DECODER}{name}": value for name, value in decoder.state_dict().items()}
    weights = {name: _z_first(value) for name, value in weights.items() if not name.startswith(HEADS)}
    for part, second in PARTS.items():
        weights |= {name.replace(part, second): value for name, value in weights.items() if part in name}
    return weights | {f"{DECODER}{n}": value for n, value in weights.items() if n.startswith(ENCODER)}


def _z_first(value: Tensor) -> Tensor:
    """A weight on the CPU, a kernel with its axes from (x, y, z) to (z, y, x)."""
    value = value.detach().cpu()
    return value.transpose(2, 4).contiguous() if value.dim() == 5 else value


def architecture(config: UNetConfig) -> dict[str, Any]:
    """The part of a plan from which nnU-Net builds the network, JSON-able; its channels follow from the data set."""
    stages = len(config.features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(config.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_blocks_per_stage": list(config.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": NORM_EPS, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},  # its slope is the default of torch, 0.01, as ours
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def adapt_plans(
    plans: Mapping[str, Any],
    config: UNetConfig,
    *,
    name: str,
    patch: Shape3,
    spacing_mm: Spacing,
    intensity: Intensity,
    batch: int | None = None,
) -> dict[str, Any]:
    """A data set's plans with our network in place of the planner's.

    Kept is what belongs to the data: normalisation, resampling functions, intensities, and the batch unless given. But
    no channel is normalised within a mask alone: nnU-Net then puts 0 around a stripped brain, where our encoders have
    seen the background's own z-score, about -3. And a window with its own mean and deviation is the network's:
    nnU-Net's `CTNormalization` clips to two percentiles of the data, less their mean, over their deviation, and takes
    all four from the plans.

    Args:
        plans: of any of nnU-Net's planners, with a configuration 3d_fullres; not changed.
        config: our network.
        name: of the new plans, the stem of their file.
        patch: in voxels along x, y, z; every side a multiple of the network's stride.
        spacing_mm: along x, y, z.
        intensity: how the network's scans were scaled.
        batch: patches a step.

    Raises:
        ConfigError: no such configuration, or a patch that the network cannot take.
    """
    config.check_shape(patch)
    try:
        old = plans["configurations"][CONFIGURATION]
        back = plans["transpose_backward"]
        spacing, shape = (
            [plans[f"original_median_{what}_after_transp"][back[axis]] for axis in range(3)]
            for what in ("spacing", "shape")
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"not nnU-Net plans with a configuration {CONFIGURATION} ({type(error).__name__}: {error})",
            mend="give a file that nnUNetv2_plan_experiment wrote",
        ) from error
    wanted = list(spacing_mm)[::-1]
    resampled = [round(n * a / b) for n, a, b in zip(shape, spacing, wanted, strict=True)]
    own = {
        **copy.deepcopy(dict(old)),
        "use_mask_for_norm": [
            False for _ in old.get("normalization_schemes", old.get("use_mask_for_norm", ()))
        ],
        "data_identifier": f"mdae_whole_{'x'.join(f'{side:g}' for side in spacing_mm)}mm",
        "patch_size": list(patch)[::-1],
        "spacing": wanted,
        "median_image_size_in_voxels": resampled,
        "architecture": architecture(config),
        "batch_size": int(old["batch_size"]) if batch is None else batch,
    }
    own.pop("next_stage", None)  # of a cascade that is not ours
    windowed: dict[str, Any] = {}
    if isinstance(intensity, Window) and normalises(intensity):
        schemes = own.get("normalization_schemes", ())
        own["normalization_schemes"] = ["CTNormalization" for _ in schemes]
        properties = _properties(intensity)
        windowed = {
            "foreground_intensity_properties_per_channel": {
                str(index): properties for index in range(len(schemes))
            }
        }
    return {
        **copy.deepcopy(dict(plans)),
        **windowed,
        "plans_name": name,
        "image_reader_writer": READER,
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": shape,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: own},
    }


def normalises(intensity: Intensity) -> bool:
    """Whether nnU-Net can scale intensities so: by z-scores, or by a window whose mean and deviation are given."""
    return isinstance(intensity, ZScore) or (isinstance(intensity, Window) and intensity.mean is not None)


def _properties(window: Window) -> dict[str, float | None]:
    """A window in the words of nnU-Net's fingerprints."""
    return {
        "min": window.low,
        "percentile_00_5": window.low,
        "mean": window.mean,
        "median": window.mean,
        "std": window.std,
        "percentile_99_5": window.high,
        "max": window.high,
    }


def save_nnunet(network: ResidualUNet, path: Path, num_channels: int) -> None:
    """Write what `nnUNetv2_train -pretrained_weights PATH` starts from, where the plans are of `adapt_plans`."""
    with atomic_write(path) as temporary:
        torch.save({"network_weights": nnunet_weights(network, num_channels)}, temporary)
