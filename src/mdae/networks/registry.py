"""The networks by the names that `--network` takes, and by the kind that a saved model was written with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mdae.errors import ConfigError, ModelError
from mdae.networks.base import Network, NetworkConfig
from mdae.plugin import load_plugin
from mdae.types import Shape3

PLUGIN = "MDAE_PLUGIN"  # environment variable: files that register networks, for commands without --plugin
FIRST_KIND = "residual-unet"  # of models that were saved when there was no other


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network by name.

    Args:
        kind: what saved models call its class by; presets of one class share it.
        config: its sizes.
        patch: the crop in voxels that it is meant for.
        use: for whom, in a few words.
        build: the class: `build(config, generator=...)`.
        lr: peak learning rate of AdamW that it is pre-trained with where none is asked for.
    """

    kind: str
    config: NetworkConfig
    patch: Shape3
    use: str
    build: Callable[..., Network]
    lr: float = 1e-3

    def new(self, generator: torch.Generator | None = None, *, in_channels: int = 1) -> Network:
        """An untrained network.

        Args:
            generator: the source of its weights, on the CPU.
            in_channels: contrasts of a volume.
        """
        return self.build(replace(self.config, in_channels=in_channels), generator=generator)

    def crop(self, patch: Shape3 | None) -> Shape3:
        """The patch that was asked for, else its own; `ConfigError` if the network does not take it."""
        chosen = patch or self.patch
        self.config.check_shape(chosen)
        return chosen


PRESETS: dict[str, NetworkSpec] = {}


def register(name: str, spec: NetworkSpec) -> None:
    """Make a network known by name.

    Raises:
        ConfigError: a name that is taken or no name, a kind of another class, a config that JSON does not bring back,
            or a patch that does not fit.
    """
    for word in (name, spec.kind):
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word):
            raise ConfigError(f"network name {word!r}", mend="use lower-case letters, digits and hyphens")
    if name in PRESETS:
        raise ConfigError(f"there is a network {name!r} already", mend="choose another name")
    config = type(spec.config)
    if not (is_dataclass(config) and issubclass(config, NetworkConfig)):
        raise ConfigError(f"{config.__name__} is no configuration", mend="derive it from NetworkConfig")
    for other in PRESETS.values():
        if (other.kind == spec.kind) != (type(other.config) is config):
            raise ConfigError(
                f"kind {spec.kind} of {config.__name__}, and {other.kind} of {type(other.config).__name__}",
                mend="give each class of configurations a kind of its own",
            )
    if config.from_dict(spec.config.to_dict()) != spec.config:
        raise ConfigError(
            f"{config.__name__} does not survive JSON", mend="use numbers, words, and tuples of them"
        )
    spec.config.check_shape(spec.patch)
    PRESETS[name] = spec


def preset(name: str) -> NetworkSpec:
    """The network of that name, or `ConfigError` naming those there are."""
    if name not in PRESETS:
        _load_plugins()
    if name not in PRESETS:
        raise ConfigError(f"no network preset {name!r}", mend=f"use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def describe(network: Network) -> dict[str, Any]:
    """The JSON-able record of a network in a saved model."""
    kind = next(spec.kind for spec in PRESETS.values() if type(spec.config) is type(network.config))
    return {"kind": kind, **network.config.to_dict()}


def built(record: dict[str, Any]) -> Network:
    """An untrained network from its record.

    Raises:
        ModelError: a kind that nobody has registered.
        ConfigError: sizes that exclude each other.
        TypeError: other fields than its configuration has.
    """
    values = dict(record)
    kind = values.pop("kind", FIRST_KIND)
    spec = _of_kind(kind)
    return spec.build(type(spec.config).from_dict(values), generator=None)


def _of_kind(kind: str) -> NetworkSpec:
    if all(spec.kind != kind for spec in PRESETS.values()):
        _load_plugins()
    for spec in PRESETS.values():
        if spec.kind == kind:
            return spec
    raise ModelError(
        f"a network of kind {kind}, which no preset has",
        mend=f"name the file that registers it: export {PLUGIN}=FILE",
    )


def _load_plugins() -> None:
    """Run the user's files that the environment names."""
    for path in filter(None, os.environ.get(PLUGIN, "").split(os.pathsep)):
        load_plugin(Path(path))
