"""Encoders pre-trained with nnssl, the OpenMind checkpoints among them, on the ResEnc-L and Primus backbones.

Paper: Wald et al., "An OpenMind for 3D medical vision self-supervised learning", ICCV 2025. Weights: CC BY 4.0.
Written for `checkpoint_final.pth` with `adaptation_plan.json` of the repositories `ResEncL-OpenMind-*` on the Hugging
Face Hub, and read against nnssl of October 2025; any objective, since all keep the encoder alike.

File: a dict with `network_weights`, and `nnssl_adaptation_plan` (or the JSON beside it), whose `key_to_encoder` and
`key_to_stem` say where stages and stem are. dynamic-network-architectures names each weight twice, as `conv` and `norm`
and as `all_modules.N`. It computes with the latter, and in checkpoints of SparK (S3D) the two differ, because nnssl's
conversion to sparse convolutions unties them and the former stay as they were at the start. So `all_modules` is taken.

Preprocessing: cropped to what is not 0, z-scored over the crop, resampled to 1 mm by cubic splines, without smoothing,
and by the nearest slice across slices more than three times as thick; the middle `recommended_downstream_patchsize`,
padded with 0. Orientation: nnssl reads files by SimpleITK or nibabel, keeps the order in which they lie on disk, and
counts z first. So do we for these encoders: they have seen nothing else, RAS would show them axes swapped.
Features: the mean of every stage.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.errors import ConfigError, ModelError, ScanError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, read_checkpoint, weights_file
from mdae.interop.nnssl_primus import SIZES as PRIMUS
from mdae.interop.nnssl_primus import primus_config, primus_weights
from mdae.interop.raw import as_in_file, centred, read_raw, recorded
from mdae.networks import StageEncoder
from mdae.networks.primus import PrimusEncoder
from mdae.networks.unet import ResidualEncoder, UNetConfig
from mdae.types import Shape3, shape3

CHECKPOINT, PLAN = "checkpoint_final.pth", "adaptation_plan.json"
ARCHITECTURES = (
    "ResEncL",
    "NoSkipResEncL",
    "ResidualEncoderUNet",
    *PRIMUS,
)  # the encoder counts, whatever decodes it
ONE_MM = "onemmiso"  # the configuration that encoders are trained on, where a plan has several
RAS_READER = "NibabelIOWithReorient"
THICK = 3.0  # times the finest spacing, from which slices are taken as they are
STAGE = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptationPlan:
    """What nnssl writes beside its weights, as far as an encoder needs it; the defaults are OpenMind's.

    Attributes:
        kind: the network, by nnssl's name.
        encoder_key, stem_key: where the stages and the stem are among the weights.
        patch: the sides of the input, in the network's order of axes.
        spacing_mm: isotropic.
        transpose: of the axes z, y, x of a file.
        reorient: whether files are turned to RAS first.
    """

    kind: str = "ResEncL"
    encoder_key: str = "encoder.stages"
    stem_key: str = "encoder.stem"
    patch: Shape3 = (160, 160, 160)
    spacing_mm: float = 1.0
    transpose: Shape3 = (0, 1, 2)
    reorient: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdaptationPlan:
        """Read nnssl's own JSON.

        Raises:
            KeyError, TypeError, ValueError: not such a plan.
            ConfigError: a plan for a network or a preprocessing that cannot be had here.
        """
        _check_architecture(values["architecture_plans"])
        if values["pretrain_num_input_channels"] != 1:
            raise ConfigError(f"an encoder of {values['pretrain_num_input_channels']} contrasts")
        pretrained = values["pretrain_plan"]
        configurations = pretrained["configurations"]
        (configuration,) = [configurations[ONE_MM]] if ONE_MM in configurations else configurations.values()
        spacing = sorted(configuration["spacing"] or [0.0])
        if configuration["normalization_schemes"] != ["ZScoreNormalization"] or any(
            configuration["use_mask_for_norm"]
        ):
            raise ConfigError(f"a normalisation by {configuration['normalization_schemes']}")
        if spacing[0] <= 0 or spacing[0] != spacing[-1]:
            raise ConfigError(f"a spacing of {configuration['spacing']}, not the same along all axes")
        return cls(
            kind=values["architecture_plans"]["arch_class_name"],
            encoder_key=values["key_to_encoder"],
            stem_key=values["key_to_stem"],
            patch=shape3(values["recommended_downstream_patchsize"]),
            spacing_mm=float(spacing[0]),
            transpose=shape3(pretrained["transpose_forward"]),
            reorient=pretrained["image_reader_writer"] == RAS_READER,
        )


def load_nnssl(path: Path, name: str) -> Backbone:
    """An encoder of nnssl.

    Args:
        path: `checkpoint_final.pth`, or the folder with it.
        name: for tables.

    Raises:
        ModelError: no such checkpoint, or of another architecture.
    """
    checkpoint = read_checkpoint(weights_file(path, [CHECKPOINT]))
    where = checkpoint.path
    plan = adaptation_of(checkpoint.others, where)
    encoder = _encoder(checkpoint.weights, plan, where)
    trainer = checkpoint.others.get("trainer_name", "objective not stated")
    return Backbone(
        name=name,
        identity=checkpoint.identity,
        network=encoder.eval(),
        preprocessing={
            "nnssl": 1,  # of this file's rules
            "crop": "nonzero",
            "normalise": "z-score of the crop",
            "spacing_mm": plan.spacing_mm,
            "axes": "RAS, z first" if plan.reorient else "file, z first",
            "transpose": list(plan.transpose),
            "fit": "middle window",
            "patch": list(plan.patch),
        },
        prepare=lambda entry: prepare_nnssl(entry, plan.spacing_mm),
        to_input=lambda prepared: nnssl_input(prepared, plan),
        patch=plan.patch,
        source=f"nnssl ({trainer}); Wald et al., ICCV 2025; CC BY 4.0",
    )


def _encoder(weights: Mapping[str, Tensor], plan: AdaptationPlan, where: Path) -> StageEncoder:
    """The network of the plan's kind with the checkpoint's weights, its axes nnssl's; raises `ModelError`."""
    try:
        if plan.kind in PRIMUS:
            found = primus_weights(weights, plan.encoder_key, plan.stem_key)
            encoder: ResidualEncoder | PrimusEncoder = PrimusEncoder(
                primus_config(found, plan.kind, plan.patch)
            )
        else:
            found = encoder_weights(weights, plan, where)
            encoder = ResidualEncoder(config_of(found))
        encoder.config.check_shape(plan.patch)
        if encoder.in_channels != 1:
            raise ConfigError(f"an encoder of {encoder.in_channels} contrasts")
    except KeyError as error:
        raise ModelError(f"not a {plan.kind}: no {error}", where=where, mend=_MEND) from error
    except ConfigError as error:
        raise ModelError(error.what, where=where, mend=_MEND) from error
    load_strictly(encoder, found, where)
    return encoder


def prepare_nnssl(entry: ScanEntry, spacing_mm: float = 1.0) -> PreparedScan:
    """Crop to what is not 0, z-score, resample; raises `ScanError` for an unfit scan."""
    raw = read_raw(entry)
    present = ndimage.find_objects((raw.data != 0).astype(np.uint8))[0]  # one object, with all that is not 0
    crop = raw.data[present]
    mean, std = float(crop.mean(dtype=np.float64)), float(crop.std(dtype=np.float64))
    if not std > 0:
        raise ScanError("its intensities are constant", where=entry.path, mend="look at the file")
    z_scores = resample_nnssl((crop - np.float32(mean)) / np.float32(std), raw.spacing_mm, spacing_mm)
    scale = tuple(n / m for n, m in zip(crop.shape, z_scores.shape, strict=True))
    return recorded(
        raw,
        z_scores,
        scale,
        mean=mean,
        std=std,
        background=-mean / std,
        start=tuple(part.start for part in present),
        crop_shape=crop.shape,
    )


def resample_nnssl(data: np.ndarray, spacing_mm: tuple[float, ...], target_mm: float) -> np.ndarray:
    """A volume (D, H, W) at another spacing, as nnU-Net and nnssl resample images.

    Cubic splines, held within the range of the values; of thick slices the nearest is taken, and what is held is the
    range of each slice.
    """
    shape = [round(old / target_mm * side) for old, side in zip(spacing_mm, data.shape, strict=True)]
    coarsest = np.flatnonzero(np.isclose(spacing_mm, max(spacing_mm), rtol=1e-6))
    thick = int(coarsest[0]) if len(coarsest) == 1 and max(spacing_mm) > THICK * min(spacing_mm) else None
    inner = tuple(axis for axis in range(3) if axis != thick)
    low, high = data.min(axis=inner, keepdims=True), data.max(axis=inner, keepdims=True)
    for axis in inner:
        data = _along(data, axis, shape[axis], order=3)
    data = np.clip(data, low, high)
    return data if thick is None else _along(data, thick, shape[thick], order=0)


def _along(data: np.ndarray, axis: int, size: int, order: int) -> np.ndarray:
    """One axis resampled to `size` voxels of the same extent; splines are linear, so a matrix does it."""
    side = data.shape[axis]
    if side == size:
        return data
    zoom = (max(1, size) / side, 1.0)
    matrix = ndimage.zoom(np.eye(side), zoom, order=order, mode="nearest", grid_mode=True)
    return np.moveaxis(np.tensordot(matrix.astype(np.float32), data, axes=(1, axis)), 0, axis)


def nnssl_input(prepared: PreparedScan, plan: AdaptationPlan) -> np.ndarray:
    """The middle window, axes as nnssl reads them: those of the file, last first."""
    volume = prepared.data if plan.reorient else as_in_file(prepared)
    return centred(volume.transpose(2, 1, 0).transpose(plan.transpose), plan.patch, 0.0)


_MEND = "give a checkpoint of nnssl with the ResEnc-L or Primus backbone"


def adaptation_of(others: Mapping[str, Any], where: Path) -> AdaptationPlan:
    """The plan within the checkpoint, or beside it, or OpenMind's if there is none."""
    values, source = others.get("nnssl_adaptation_plan"), where
    if values is None and (where.parent / PLAN).is_file():
        source = where.parent / PLAN
        try:
            values = json.loads(source.read_text())
        except (OSError, ValueError) as error:
            raise ModelError(
                f"not readable as JSON ({error})", where=source, mend="download it again"
            ) from error
    if values is None:
        logger.warning(
            "%s: no adaptation plan in it or beside it; prepared as OpenMind's encoders are", where
        )
        return AdaptationPlan()
    try:
        return AdaptationPlan.from_dict(values)
    except ConfigError as error:
        raise ModelError(error.what, where=source, mend=_MEND) from error
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"no adaptation plan of nnssl ({reason})", where=source, mend=_MEND) from error


def _check_architecture(plan: dict[str, Any]) -> None:
    """Raise `ConfigError` for a network that is not ours; what shapes tell is left to the loading."""
    kind, kwargs = plan["arch_class_name"], plan["arch_kwargs"] or {}
    if kind not in ARCHITECTURES:
        raise ConfigError(f"a network of kind {kind}, and only {', '.join(ARCHITECTURES)} can be had here")
    strides = [list(np.broadcast_to(stride, 3)) for stride in kwargs.get("strides", [])]
    if strides and strides != [[1] * 3, *([[2] * 3] * (len(strides) - 1))]:
        raise ConfigError(f"strides of {kwargs['strides']}, and only 1, 2, 2, ... can be had here")
    for option, wanted in {"norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}.items():
        if option in kwargs and not str(kwargs[option]).endswith(wanted):
            raise ConfigError(f"a network with {option} {kwargs[option]} instead of {wanted}")


def encoder_weights(weights: Mapping[str, Tensor], plan: AdaptationPlan, where: Path) -> dict[str, Tensor]:
    """The weights of stem and stages by our names; the log says what else there was."""
    found: dict[str, Tensor] = {}
    left_out: dict[str, int] = {}
    for name, value in weights.items():
        for key, own in ((plan.encoder_key, "stages."), (plan.stem_key, "stem.")):
            if name.startswith(f"{key}."):
                found[own + name[len(key) + 1 :]] = value
                break
        else:
            part = name.partition(".")[0]
            left_out[part] = left_out.get(part, 0) + 1
    if not found:
        raise ModelError(
            f"no weights under {plan.encoder_key}, only {', '.join(sorted(left_out))}",
            where=where,
            mend=_MEND,
        )
    for part, number in left_out.items():
        logger.info("%s: %d weights left out, not of the encoder: %s", where, number, part)
    return named_once(found, where)


def named_once(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """`all_modules.0` as `conv` and what follows it as `norm`: what the network computed with, under our names."""
    once = {name: value for name, value in weights.items() if ".all_modules." not in name}
    differing = 0
    for name, value in weights.items():
        block, marker, rest = name.partition(".all_modules.")
        if marker:
            index, _, kind = rest.partition(".")
            twin = f"{block}.{'conv' if index == '0' else 'norm'}.{kind}"
            differing += twin in once and not torch.equal(once[twin], value)
            once[twin] = value
    if differing:
        logger.info(
            "%s: %d weights differ from their copies under all_modules, which the network computes with and which "
            "are taken",
            where,
            differing,
        )
    return once


def config_of(weights: Mapping[str, Tensor]) -> UNetConfig:
    """The sizes that the shapes tell; raises `KeyError` for weights of another network."""
    blocks: dict[int, int] = {}
    for name in weights:
        if match := STAGE.match(name):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    features = [len(weights[f"stages.{stage}.blocks.0.conv1.conv.weight"]) for stage in range(len(blocks))]
    return UNetConfig(
        in_channels=weights["stem.convs.0.conv.weight"].shape[1],
        features=tuple(features),
        blocks=tuple(blocks[stage] for stage in range(len(blocks))),
    )
