"""`mdae export`: models for nnU-Net, for nnssl's fine-tuning forks, and as a plain encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mdae.data.intensity import Intensity, ZScore
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.files import atomic_write, require_writable
from mdae.interop.configs import ExportConfig
from mdae.interop.nnssl_primus import nnssl_weights, primus_kind
from mdae.interop.nnunet import (
    CONFIGURATION,
    READER,
    adapt_plans,
    architecture,
    nnunet_weights,
    normalises,
    save_nnunet,
    unet_of,
)
from mdae.networks import Network
from mdae.networks.primus import Primus
from mdae.networks.registry import describe
from mdae.networks.saved import SavedModel, load_model
from mdae.version import __version__

CHECKPOINT, PLAN = "checkpoint_final.pth", "adaptation_plan.json"


def export(config: ExportConfig) -> list[str]:
    """Write a model in another system's format; what was written and what to do with it, a line each.

    Raises:
        ModelError, ConfigError: no such model, channels that it cannot take, or no plans of nnU-Net's.
    """
    model = load_model(config.model)
    require_writable(config.out if config.format == "nnssl" else config.out.parent)
    if config.format == "nnssl":
        export_nnssl(model, config.out)
        lines = [f"{config.out}: {CHECKPOINT} and {PLAN}, for nnUNetv2_preprocess_like_nnssl -pc"]
        return lines + _scale_first(
            model.contract.intensity, fits=isinstance(model.contract.intensity, ZScore)
        )
    if config.format == "encoder":
        export_encoder(model, config.out)
        return [f"{config.out}: the encoder's weights, axes (x, y, z) of scans in RAS"]
    channels = config.channels or model.network.in_channels
    plans = None if config.plans is None else _plans(model, config.plans, config.out.stem)
    save_nnunet(unet_of(model.network), config.out, channels)
    lines = [f"{config.out}: weights for {channels} channels, for nnUNetv2_train -pretrained_weights"]
    if model.channels and channels == len(model.channels):
        named = ", ".join(f"{place:04d} {name}" for place, name in enumerate(model.channels))
        lines.append(f"  its channels, as the data set's channel_names have to be: {named}")
    if config.plans is not None and plans is not None:
        path = config.plans.with_name(f"{config.out.stem}.json")
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(plans, indent=4) + "\n")
        lines += [
            f"{path}: plans for them. Next:",
            f"  nnUNetv2_preprocess -d ID -plans_name {path.stem} -c {CONFIGURATION}",
            f"  nnUNetv2_train ID {CONFIGURATION} FOLD -p {path.stem} -pretrained_weights {config.out}",
        ]
    return lines + _scale_first(model.contract.intensity, fits=normalises(model.contract.intensity))


def _scale_first(intensity: Intensity, *, fits: bool) -> list[str]:
    """What is left to the user where the other system has no such way of scaling intensities."""
    if fits:
        return []
    return [
        f"This model saw intensities scaled by {intensity}, of which the other system knows nothing: "
        "scale the scans so first."
    ]


def _plans(model: SavedModel, path: Path, name: str) -> dict[str, Any]:
    try:
        plans = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be read as JSON ({error})", where=path, mend="give nnU-Net plans"
        ) from error
    return adapt_plans(
        plans,
        unet_of(model.network).config,
        name=name,
        patch=model.patch,
        spacing_mm=model.contract.spacing_mm,
        intensity=model.contract.intensity,
    )


def export_encoder(model: SavedModel, path: Path) -> None:
    """The folded encoder's weights, with the network's shape and the preprocessing as metadata."""
    encoder = model.network.at(0.0).encoder
    about = {
        "network": json.dumps(describe(model.network)),
        "preprocessing": json.dumps(model.contract.to_dict()),
        "patch": json.dumps(list(model.patch)),
        "mdae": __version__,
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata=about)


def export_nnssl(model: SavedModel, folder: Path) -> None:
    """A folder as nnssl's own of October 2025: weights, and how a network is to be built and data prepared for them.

    nnssl's forks widen the stem by themselves and take stem and stages.
    """
    plan = adaptation_plan(model)
    network = model.network
    if isinstance(network, Primus):
        weights = nnssl_weights(network)
    else:
        weights = nnunet_weights(unet_of(network), network.in_channels)
    with atomic_write(folder / CHECKPOINT) as temporary:
        contents = {"network_weights": weights, "nnssl_adaptation_plan": plan, "trainer_name": "mdae"}
        torch.save(contents, temporary)
    with atomic_write(folder / PLAN) as temporary:
        temporary.write_text(json.dumps({**plan, "trainer_name": "mdae"}, indent=4) + "\n")


def adaptation_plan(model: SavedModel) -> dict[str, Any]:
    """What nnssl writes beside its weights, JSON-able."""
    return {
        **_architecture_and_keys(model.network),
        "pretrain_plan": _pretrain_plan(model.contract, list(model.patch)[::-1]),
        "pretrain_num_input_channels": model.network.in_channels,
        "recommended_downstream_patchsize": list(model.patch)[::-1],
    }


def _architecture_and_keys(network: Network) -> dict[str, Any]:
    if isinstance(network, Primus):
        named = {"arch_class_name": primus_kind(network.config), "arch_kwargs": None}
        return {
            "architecture_plans": {**named, "arch_kwargs_requiring_import": None},
            "key_to_encoder": "eva",
            "key_to_stem": "down_projection",
            "keys_to_in_proj": ["down_projection.proj"],
            "key_to_lpe": "eva.pos_embed",
        }
    return {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": dict(architecture(unet_of(network).config)["arch_kwargs"]),
            "arch_kwargs_requiring_import": ["conv_op", "norm_op", "nonlin"],
        },
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def _pretrain_plan(contract: Preprocessing, patch: list[int]) -> dict[str, Any]:
    """The preprocessing in nnssl's words, as near as they come: z-scores at the contract's spacing, in RAS.

    It has no windows and no percentiles: then it is told to leave intensities as they are.
    """
    spacing = list(contract.spacing_mm)[::-1]
    style = "onemmiso" if spacing == [1.0, 1.0, 1.0] else "median"
    order = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnsslPlans_{style}",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": style,
        "normalization_schemes": [
            "ZScoreNormalization" if isinstance(contract.intensity, ZScore) else "NoNormalization"
        ],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": contract.order, **order},
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, **order},
        "spacing": spacing,
        "patch_size": patch,
    }
    return {
        "dataset_name": "mdae",
        "plans_name": "nnsslPlans",
        "original_median_spacing_after_transp": spacing,
        "image_reader_writer": READER,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {style: configuration},
        "experiment_planner_used": "ExperimentPlanner",
    }
