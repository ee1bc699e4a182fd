"""The objectives by name. Registering one enrols it in the command line, the docs table and the contract tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch

from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives.base import Objective
from mdae.objectives.settings import changed, convert, find, setting_types
from mdae.options import ObjectiveOptions

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Generic[S]):
    """One entry.

    Args:
        paper: author, title, venue and year.
        summary: what it learns from, as one clause.
        settings: the published values; a frozen, keyword-only dataclass that validates itself.
        build: the objective on a network with such settings; the class itself, as a rule.
        fixed: paths of settings that would make it another objective, which a user cannot change.
    """

    paper: str
    summary: str
    settings: S
    build: Callable[[Network, S], Objective]
    fixed: tuple[str, ...] = ()


OBJECTIVES: dict[str, ObjectiveSpec[Any]] = {}

# Options that other settings than theirs share a name with, or that have another name than theirs.
SETTING_OF_OPTION = {"noise": "schedule.kind", "sigma_max": "schedule.sigma_max"}


def register(name: str, spec: ObjectiveSpec[Any]) -> None:
    """Make an objective known by name.

    Raises:
        ConfigError: a name that is taken or no name, or settings that are no frozen, keyword-only dataclass of plain
            fields.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ConfigError(f"objective name {name!r}", mend="use lower-case letters, digits and hyphens")
    if name in OBJECTIVES:
        raise ConfigError(f"there is an objective {name!r} already", mend="choose another name")
    paths = setting_types(type(spec.settings))
    for path in spec.fixed:
        find(path, paths, f"objective {name}")
    OBJECTIVES[name] = spec


def find_objective(name: str) -> ObjectiveSpec[Any]:
    """The entry of that name, or `ConfigError` naming those there are."""
    if name not in OBJECTIVES:
        raise ConfigError(f"no objective {name!r}", mend=f"use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def objective_config(
    name: str, options: ObjectiveOptions | None = None, changes: Mapping[str, Any] | None = None
) -> Any:
    """An objective's published settings with a user's changes.

    Args:
        name: of a registered objective.
        options: the options that several objectives share; those given must be settings of this one.
        changes: values, or the text of them, by the setting's path or an end of it.

    Raises:
        ConfigError: an unknown name, a setting that it does not have or that is given twice, a value that does not
            fit, or settings that exclude each other.
    """
    spec = find_objective(name)
    types = setting_types(type(spec.settings))
    free = [path for path in types if path not in spec.fixed]
    owner = f"objective {name}"
    given = [] if options is None else [*options.given().items()]
    asked = [(find(SETTING_OF_OPTION.get(o, o), free, owner, called=o), value) for o, value in given]
    asked += [(find(setting, free, owner), value) for setting, value in (changes or {}).items()]
    values: dict[str, Any] = {}
    for path, value in asked:
        if path in values:
            raise ConfigError(f"{path} is given twice", mend="give it once")
        values[path] = convert(value, types[path], path)
    return changed(spec.settings, values)


def build_objective(
    name: str,
    network: Network,
    options: ObjectiveOptions | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Objective:
    """An objective by name on a network.

    Args:
        name, options, changes: as for `objective_config`.
        network: whose encoder is to be learned.
        generator: the source of the initial weights of its heads, on the CPU.
    """
    objective = find_objective(name).build(network, objective_config(name, options, changes))
    objective.initialise_heads(generator or torch.Generator().manual_seed(0))
    return objective


def describe(name: str, settings: Any) -> dict[str, Any]:
    """The JSON-able record of an objective that is written into a saved model."""
    return {"name": name, **asdict(settings)}
