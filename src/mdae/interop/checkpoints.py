"""Other people's checkpoints: reading them without running them, and loading them whole or not at all."""

from __future__ import annotations

import argparse
import collections
import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mdae.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".bin")
# Where a state dict is kept within a training checkpoint, likeliest first.
WRAPPERS = ("network_weights", "state_dict", "model_state_dict", "teacher", "model", "net", "weights")
# What data parallelism, compilation and a model around the network put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "network.")
NUMPY = {"scalar": np._core.multiarray.scalar, "_reconstruct": np._core.multiarray._reconstruct}  # type: ignore[attr-defined]
# Notes of training beside the weights: plain data, and rebuilt without running anything.
HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("_core", "core")
        for name, function in NUMPY.items()
    ),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?")},
    argparse.Namespace,
    collections.defaultdict,
    dict,
    list,
    int,
    float,
]

REFUSED = re.compile(r"(?:GLOBAL|class) ([\w.]+)")  # what torch will not call, within its long message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: the file.
        weights: tensors by name, prefixes that all of them share stripped; on the CPU.
        identity: SHA-256 of the file.
        others: what the file holds beside them.
    """

    path: Path
    weights: dict[str, Tensor]
    identity: str
    others: dict[str, Any] = field(default_factory=dict)


def weights_file(path: Path, names: Iterable[str] = ()) -> Path:
    """The file with the weights: `path` itself, or in a folder the one of these names, or its only checkpoint.

    Raises:
        ModelError: there is none, or more than one.
    """
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.glob("*") if file.suffix in SUFFIXES) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} checkpoints there, e.g. {found[0].name}" if found else "no checkpoint there"
    raise ModelError(what, where=path, mend="give the file of the weights")


def read_checkpoint(path: Path, *, wrappers: Iterable[str] = WRAPPERS) -> Checkpoint:
    """Read a file of weights, safetensors or PyTorch's; nothing in it is run.

    Args:
        path: the file.
        wrappers: keys under which a training checkpoint may hold its state dict, likeliest first.

    Raises:
        ModelError: missing, damaged, with code in it, or without tensors.
    """
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    weights, others = _state_dict(content, tuple(wrappers))
    if not weights:
        keys = ", ".join(str(key) for key in list(content)[:8]) if isinstance(content, Mapping) else ""
        what = f"no weights in it, only {keys}" if keys else f"a {type(content).__name__}, no dict of weights"
        raise ModelError(what, where=path, mend="give a checkpoint with a state dict")
    return Checkpoint(path, without_prefix(weights), file_identity(path), others)


def file_identity(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_prefix(weights: Mapping[str, Tensor], prefixes: Iterable[str] = PREFIXES) -> dict[str, Tensor]:
    """The weights without those of the prefixes that every name begins with, however many are nested."""
    prefixes = tuple(prefixes)
    found = dict(weights)
    while found and (
        shared := next((p for p in prefixes if all(name.startswith(p) for name in found)), None)
    ):
        found = {name[len(shared) :]: value for name, value in found.items()}
    return found


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def load_strictly(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    where: str | Path,
    *,
    ignore: Mapping[str, str] | None = None,
) -> None:
    """Load all weights of a network or none.

    Args:
        network: filled in place.
        weights: by the network's names.
        where: the file, for errors and the log.
        ignore: beginnings of names to leave out, and what each is; the log says so.

    Raises:
        ModelError: weights are missing, left over or of another shape.
    """
    kept = dict(weights)
    for prefix, reason in (ignore or {}).items():
        left_out = [name for name in kept if name.startswith(prefix)]
        for name in left_out:
            del kept[name]
        if left_out:
            logger.info("%s: %d weights left out: %s (%s*)", where, len(left_out), reason, prefix)
    own = network.state_dict()
    for name in own.keys() - kept.keys():
        if name.endswith(
            ".num_batches_tracked"
        ):  # a count that nothing is computed from; older files lack it
            kept[name] = own[name]
    missing, extra = sorted(own.keys() - kept.keys()), sorted(kept.keys() - own.keys())
    unfit = sorted(name for name in own.keys() & kept.keys() if own[name].shape != kept[name].shape)
    faults = [f"{len(missing)} keys missing, e.g. {missing[0]}"] if missing else []
    faults += [f"{len(extra)} left over, e.g. {extra[0]}"] if extra else []
    if unfit:
        found, wanted = (tuple(source[unfit[0]].shape) for source in (kept, own))
        faults.append(f"{len(unfit)} of another shape, e.g. {unfit[0]} is {found} instead of {wanted}")
    if faults:
        raise ModelError(
            "; ".join(faults),
            where=where,
            mend="give a checkpoint of the layout that this kind of encoder has",
        )
    network.load_state_dict(kept)
    logger.info("%s: %d weights loaded", where, len(kept))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"damaged weights ({error})", where=path, mend="copy or download it again"
        ) from error


def _pickled(path: Path) -> Any:
    """What torch saved, tensors and plain data only."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := REFUSED.search(str(error)):
            raise ModelError(
                f"holds more than weights ({refused[1]}), and code of others is not run",
                where=path,
                mend="save its state dict alone, where you trust the file",
            ) from error
        raise ModelError("not a checkpoint", where=path, mend="give a file of weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ModelError(
            f"no checkpoint that can be read ({reason})", where=path, mend="copy or download it again"
        ) from error


def _state_dict(content: Any, wrappers: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and what lies beside them; the first is empty if there are none."""
    if not isinstance(content, Mapping):
        return {}, {}
    for wrapper in wrappers:
        if isinstance(content.get(wrapper), Mapping):
            weights, inner = _state_dict(content[wrapper], wrappers)
            if weights:
                outer = {str(key): value for key, value in content.items() if key != wrapper}
                return weights, {**outer, **inner}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors, {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}
