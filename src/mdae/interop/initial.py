"""Weights to begin a pre-training with: from a model of ours, a checkpoint of nnssl's or nnU-Net's, or the Hub.

What a file holds is brought to our names and our order of axes. Our networks see (x, y, z) of scans turned to RAS;
nnssl and nnU-Net count z first, so that their kernels are turned. In which direction their axes ran depended on the
files they were shown, and no turning of kernels mends that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from mdae.errors import ConfigError, ModelError
from mdae.interop.checkpoints import Checkpoint, file_identity, part_of, read_checkpoint, weights_file
from mdae.interop.known import spelled_out
from mdae.interop.nnssl import PLAN, AdaptationPlan, adaptation_of, config_of, encoder_weights, named_once
from mdae.interop.nnssl_primus import SIZES as PRIMUS
from mdae.interop.nnssl_primus import axes_reversed, primus_config, primus_weights
from mdae.interop.nnunet import DECODER, HEADS
from mdae.networks import NetworkConfig
from mdae.networks.hub import PATTERNS, is_hub_name, local_folder
from mdae.networks.registry import built
from mdae.networks.saved import CONFIG, WEIGHTS, load_model
from mdae.types import Shape3, shape3

CHECKPOINTS = ("*.pth", "*.pt", "*.ckpt", "*.bin")  # fetched from the Hub beside models of ours
NNUNET_FILES = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
Z_FIRST: Shape3 = (0, 1, 2)  # of the axes z, y, x of a file, as nnU-Net's `transpose_forward`
SEEN = ("subjects", "scans")  # manifests in a model's provenance


@dataclass(frozen=True)
class Initial:
    """Weights of elsewhere under our names, axes (x, y, z), all on the CPU.

    Attributes:
        where: as it was asked for.
        kind: "mdae", "nnssl", "nnunet" or "encoder".
        identity: SHA-256 of the file.
        network: the sizes of what `encoder` belongs to.
        channels: the contrasts that its volumes are made of, in order; none where that is not known.
        encoder: its weights, by the names within `Network.encoder`.
        decoder: its weights, by the names within `Network`, empty if there is none.
        head: likewise, what predicts voxels; empty if there is none or it predicts something else.
        time: likewise, the conditioning; empty if there is none.
        folded: the encoder and decoder without time conditioning, at time 0, where there is any; else as above.
        adapted: what was done to them, in words.
        left_out: what of the file is of no use here, in words.
        about: how it was prepared and trained, JSON-able, as far as is known.
        seen: the manifests of what it was trained on, where that is known.
    """

    where: str
    kind: str
    identity: str
    network: NetworkConfig
    encoder: dict[str, Tensor]
    channels: tuple[str, ...] = ()
    decoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    time: dict[str, Tensor] = field(default_factory=dict)
    folded: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)


def read_initial(place: str) -> Initial:
    """Weights from a folder, a file, or `OWNER/REPO` (`OWNER/REPO@REVISION`, or a short name) on the Hugging Face Hub.

    Raises:
        ModelError: nothing there, damaged, with code in it, or of another kind of network.
    """
    spec = spelled_out(place).removeprefix("nnssl:")
    path = Path(spec).expanduser()
    if is_hub_name(spec):
        path = local_folder(spec, (*PATTERNS, *CHECKPOINTS))
    elif not path.exists():
        raise ModelError(
            "no such file or folder",
            where=path,
            mend="give a model folder, a checkpoint of nnssl or nnU-Net, or OWNER/REPO on the Hub",
        )
    if (path / "model" / CONFIG).is_file():  # the folder of a run
        path = path / "model"
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return _of_model(path, place)
    file = weights_file(path, NNUNET_FILES)
    if file.suffix == ".safetensors" and "mdae" in (about := _metadata(file)):
        return _of_encoder(read_checkpoint(file), about, place)
    return _of_checkpoint(read_checkpoint(file), place)


def _of_model(folder: Path, place: str) -> Initial:
    """A model of ours, its conditioning beside it and folded."""
    model = load_model(folder)
    parts, folded = model.network.parts(), model.network.at(0.0).parts()
    return Initial(
        where=place,
        kind="mdae",
        identity=file_identity(folder / WEIGHTS),
        network=model.network.config,
        channels=model.channels,
        encoder=parts["encoder"],
        decoder=parts["decoder"],
        head=parts["head"],
        time=parts["time"],
        folded={name: folded[name] for name in ("encoder", "decoder")} if parts["time"] else {},
        about={
            "objective": model.objective.get("name", "not stated"),
            "steps": model.provenance.get("steps"),
            "preprocessing": model.contract.to_dict(),
            **({"init": model.provenance["init"]} if "init" in model.provenance else {}),
        },
        seen={name: model.provenance[name] for name in SEEN if name in model.provenance},
    )


def _of_encoder(checkpoint: Checkpoint, about: Mapping[str, str], place: str) -> Initial:
    """What `mdae export --format encoder` writes."""
    try:
        config = built(json.loads(about["network"])).config
        prepared = json.loads(about["preprocessing"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"an encoder without its description ({error})", where=checkpoint.path, mend="export it again"
        ) from error
    return Initial(
        where=place,
        kind="encoder",
        identity=checkpoint.identity,
        network=config,
        encoder=checkpoint.weights,
        about={"preprocessing": prepared},
    )


def _of_checkpoint(checkpoint: Checkpoint, place: str) -> Initial:
    """What nnssl or nnU-Net wrote, or bare weights under their names."""
    where, others = checkpoint.path, checkpoint.others
    plans = _nnunet_plans(checkpoint)
    ours = PLAN if (where.parent / PLAN).is_file() else "nnssl_adaptation_plan"
    nnssl = "nnssl_adaptation_plan" in others or (plans is None and ours == PLAN)
    plan = adaptation_of(others, where) if nnssl else AdaptationPlan()
    if plan.kind in PRIMUS:
        return _of_primus(checkpoint, plan, place)
    transpose = plan.transpose if nnssl else _transpose(plans)
    weights = encoder_weights(checkpoint.weights, plan, where)
    try:
        config = config_of(weights)
    except KeyError as error:
        raise ModelError(f"not a residual encoder: no {error}", where=where, mend=_MEND) from error
    except ConfigError as error:
        raise ModelError(error.what, where=where, mend=_MEND) from error
    decoder, heads = _decoder(checkpoint.weights, where)
    _check_strides(decoder, where)
    trainer = str(others.get("trainer_name", "not stated"))
    adapted = [f"kernels' axes turned from {_order(transpose)} to (x, y, z)"]
    left_out = [f"{what}: {why}" for what, why in _useless(others, heads, nnssl=nnssl)]
    return Initial(
        where=place,
        kind="nnssl" if nnssl else "nnunet",
        identity=checkpoint.identity,
        network=config,
        encoder=_turned(weights, transpose),
        decoder=_turned(decoder, transpose),
        head=_turned(heads, transpose) if nnssl else {},
        adapted=adapted,
        left_out=left_out,
        about={"objective": trainer, **_prepared(plan, nnssl)},
    )


def _of_primus(checkpoint: Checkpoint, plan: AdaptationPlan, place: str) -> Initial:
    """nnssl's Primus; decoders of its trainers are others than ours, or of other sizes, and are left."""
    where = checkpoint.path
    if plan.transpose != (0, 1, 2):
        raise ModelError(
            f"axes in the order {_order(plan.transpose)}",
            where=where,
            mend="give one trained on axes z, y, x",
        )
    try:
        weights = primus_weights(checkpoint.weights, plan.encoder_key, plan.stem_key)
        config = primus_config(weights, plan.kind, plan.patch)
    except KeyError as error:
        raise ModelError(f"not a {plan.kind}: no {error}", where=where, mend=_MEND) from error
    except ConfigError as error:
        raise ModelError(error.what, where=where, mend=_MEND) from error
    shape = (config.shape[2], config.shape[1], config.shape[0])
    return Initial(
        where=place,
        kind="nnssl",
        identity=checkpoint.identity,
        network=replace(config, shape=shape),
        encoder=axes_reversed(weights, config),
        adapted=[f"axes turned from {_order(plan.transpose)} to (x, y, z)"],
        about={
            "objective": str(checkpoint.others.get("trainer_name", "not stated")),
            **_prepared(plan, True),
        },
    )


_MEND = "give a checkpoint of a residual encoder U-Net (ResEnc) or Primus"


def _prepared(plan: AdaptationPlan, nnssl: bool) -> dict[str, Any]:
    return {"preprocessing": {"spacing_mm": [plan.spacing_mm] * 3}} if nnssl else {}


def _nnunet_plans(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """nnU-Net's plans, within its checkpoint or in the folder of its folds."""
    arguments = checkpoint.others.get("init_args")
    plans = arguments.get("plans") if isinstance(arguments, Mapping) else None
    if isinstance(plans, Mapping):
        return dict(plans)
    for folder in checkpoint.path.parents[:2]:
        if (folder / "plans.json").is_file():
            try:
                content = json.loads((folder / "plans.json").read_text())
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"not readable as JSON ({error})", where=folder / "plans.json", mend="copy it again"
                ) from error
            return dict(content) if isinstance(content, dict) else None
    return None


def _transpose(plans: Mapping[str, Any] | None) -> Shape3:
    """The order in which nnU-Net's network was shown the axes z, y, x."""
    try:
        axes = shape3(plans["transpose_forward"]) if plans is not None else Z_FIRST
    except (KeyError, TypeError, ValueError):
        return Z_FIRST
    return axes if sorted(axes) == [0, 1, 2] else Z_FIRST


def _order(transpose: Shape3) -> str:
    return f"({', '.join('zyx'[axis] for axis in transpose)})"


def _turned(weights: Mapping[str, Tensor], transpose: Shape3) -> dict[str, Tensor]:
    """Kernels with their axes in the order x, y, z."""
    axes = [2 + transpose.index(axis) for axis in (2, 1, 0)]
    return {
        name: value.permute(0, 1, *axes).contiguous() if value.dim() == 5 else value
        for name, value in weights.items()
    }


def _decoder(weights: Mapping[str, Tensor], where: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The decoder, without the encoder that it holds once more, and its heads."""
    own = {k: v for k, v in part_of(weights, DECODER).items() if not k.startswith("encoder.")}
    named = {f"{DECODER}{name}": value for name, value in named_once(own, where).items()}
    heads = {name: value for name, value in named.items() if name.startswith(HEADS)}
    return {name: value for name, value in named.items() if name not in heads}, heads


def _check_strides(decoder: Mapping[str, Tensor], where: Path) -> None:
    """Raise `ModelError` for stages that do not halve every side: kernels that bring them up again tell it."""
    for name, value in decoder.items():
        if ".transpconvs." in name and value.dim() == 5 and set(value.shape[2:]) != {2}:
            strides = "x".join(map(str, value.shape[2:]))
            raise ModelError(
                f"a stage with a stride of {strides}", where=where, mend=f"{_MEND}, every stride 2"
            )


def _useless(others: Mapping[str, Any], heads: Mapping[str, Tensor], *, nnssl: bool) -> list[tuple[str, str]]:
    """What else there was, and why it is not taken."""
    found = [("optimizer_state", "the state of another optimiser")] if "optimizer_state" in others else []
    if heads and not nnssl:
        classes = len(next(iter(heads.values())))
        found.append(("decoder.seg_layers", f"heads of {classes} classes, not of voxels"))
    return found


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"damaged weights ({error})", where=path, mend="copy or download it again"
        ) from error
