"""A saved model is a folder: `model.safetensors` and `config.json`, with all that a raw scan needs to be embedded.

Loading is strict: every weight must be there, none may be left over, and each shape must fit.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, ModelError
from mdae.files import atomic_write
from mdae.networks.base import Network
from mdae.networks.hub import local_folder
from mdae.networks.registry import built, describe
from mdae.types import Shape3
from mdae.version import __version__

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
SLOW = 2**13  # scrypt's N


@dataclass
class SavedModel:
    """A network with what it was trained on and for.

    Attributes:
        network: in evaluation mode when loaded.
        contract: how scans were prepared for it, and must be prepared for it.
        patch: the crop it was trained on, in voxels.
        channels: the contrasts that make a volume, in order; none if it takes any single one.
        objective: name and settings of its pre-training objective.
        provenance: steps, data, versions, and the salted hashes of the pre-training subjects and scans' voxels.
    """

    network: Network
    contract: Preprocessing
    patch: Shape3
    objective: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


def save_model(folder: Path, model: SavedModel) -> None:
    """Write a model folder; weights first, so that a folder with a config is whole.

    Raises:
        ModelError: a weight is not finite; nothing is written then.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    _require_finite(weights, folder)
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"mdae": __version__, "torch": torch.__version__, "python": platform.python_version()}
    config = {
        "format": FORMAT,
        "network": describe(model.network),
        "preprocessing": model.contract.to_dict(),
        "patch": list(model.patch),
        "channels": list(model.channels),
        "objective": model.objective,
        "provenance": {**model.provenance, "versions": versions},
    }
    with atomic_write(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(weights, temporary)
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def _require_finite(weights: Mapping[str, Tensor], where: Path) -> None:
    """No features come of weights that are infinite or no numbers."""
    spoilt = [name for name, value in weights.items() if not value.isfinite().all()]
    if spoilt:
        raise ModelError(
            f"{len(spoilt)} of its {len(weights)} weights are not finite, {spoilt[0]} the first",
            where=where,
            mend="train again in another folder, with a lower --lr or --clip",
        )


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> SavedModel:
    """Read a model folder, or OWNER/NAME (with or without @REVISION) of the Hugging Face Hub.

    Raises:
        ModelError: no such folder, a file missing or damaged, or weights that do not fit the config or are not finite.
    """
    folder = local_folder(folder)
    config = _read_config(folder)
    try:
        network = built(config["network"])
        contract = Preprocessing.from_dict(config["preprocessing"])
        patch = (int(config["patch"][0]), int(config["patch"][1]), int(config["patch"][2]))
        objective, provenance = dict(config["objective"]), dict(config["provenance"])
        channels = tuple(map(str, config.get("channels", ())))
        if channels and len(channels) != network.in_channels:
            raise ValueError(f"{len(channels)} channels for a network of {network.in_channels}")
    except (KeyError, IndexError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"its config does not describe a model of this version ({type(error).__name__}: {error})",
            where=folder / CONFIG,
            mend="give the folder `model` of an mdae run",
        ) from error
    _load_weights(network, folder / WEIGHTS)
    return SavedModel(network.to(device).eval(), contract, patch, objective, provenance, channels)


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """How a saved model came about, without reading its weights; arguments and errors as `load_model`."""
    folder = local_folder(folder)
    try:
        return dict(_read_config(folder)["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"its config does not describe a model of this version ({type(error).__name__}: {error})",
            where=folder / CONFIG,
            mend="give the folder `model` of an mdae run",
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    mend = "give the folder `model` of an mdae run"
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(f"no {CONFIG} and {WEIGHTS} there", where=folder, mend=mend)
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"not readable as JSON ({error})", where=folder / CONFIG, mend=mend) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ModelError(f"not a model config of format {FORMAT}", where=folder / CONFIG, mend=mend)
    return config


def _load_weights(network: Network, path: Path) -> None:
    """Load all weights or none."""
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"damaged weights ({error})", where=path, mend="copy or download the model again"
        ) from error
    own = network.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    unfit = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or unfit:
        first = (missing + extra + sorted(unfit))[0]
        raise ModelError(
            f"the weights do not fit the config: {len(missing)} missing, {len(extra)} left over, "
            f"{len(unfit)} of another shape, e.g. {first}",
            where=path,
            mend="use weights and config of one model",
        )
    _require_finite(weights, path)
    network.load_state_dict(weights)


def salted_hash(salt: str, name: str) -> str:
    """The salted hash of a name: enough to find an overlap, not to read the name from it."""
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:20]


def slow_hash(salt: str, name: str, cost: int) -> str:
    """The same by scrypt (Percival 2009, RFC 7914): each guess at a name takes 8 MiB and some 20 ms at `SLOW`."""
    return hashlib.scrypt(name.encode(), salt=salt.encode(), n=cost, r=8, p=1, dklen=10).hex()


def manifest(
    names: Iterable[str], also: dict[str, Any] | None = None, *, slow: bool = False
) -> dict[str, Any]:
    """Salted hashes of what was trained on; the salt follows from the names, so that a repeat is identical.

    Args:
        names: of subjects, or hashes of scans' voxels.
        also: the manifest of what the weights it began with were trained on.
        slow: hash so that names are costly to guess: of a few people, whose names may be short.
    """
    ordered = sorted(set(names))
    salt = hashlib.sha256("\0".join(ordered).encode()).hexdigest()[:16]
    own: dict[str, Any] = {"salt": salt, "scrypt": SLOW} if slow else {"salt": salt}
    own["hashes"] = [_hashed(own, name) for name in ordered]
    return own if also is None else {**own, "also": also}


def _hashed(known: dict[str, Any], name: str) -> str:
    cost = known.get("scrypt")
    return salted_hash(known["salt"], name) if cost is None else slow_hash(known["salt"], name, int(cost))


def overlap(known: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Those of `names` that a manifest holds, or those that it was begun with."""
    wanted, hashes = set(names), set(known["hashes"])
    found = {name for name in wanted if _hashed(known, name) in hashes}
    return sorted(found | set(overlap(known["also"], wanted) if "also" in known else ()))
