"""The objectives by name. Registering one here enrols it in the command line, the docs table and the contract tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mdae.corruption import CorruptionConfig, Schedule
from mdae.errors import ConfigError
from mdae.networks import ResidualUNet
from mdae.objectives.base import Objective
from mdae.objectives.denoising import Denoising, DenoisingConfig
from mdae.options import ObjectiveOptions


@dataclass(frozen=True)
class ObjectiveSpec:
    """One entry: the published settings, how a user's options change them, and how the objective is built."""

    paper: str
    summary: str
    settings: DenoisingConfig
    build: Callable[[ResidualUNet, DenoisingConfig], Objective]


NO_NOISE = Schedule(kind="none")

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "mdae": ObjectiveSpec(
        "Masked-Diffusion Autoencoders, CVPR 2026",
        "inpaint what is masked and denoise what is visible, at once",
        DenoisingConfig(corruption=CorruptionConfig()),
        Denoising,
    ),
    "mae": ObjectiveSpec(
        "He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022",
        "inpaint what is masked; the rest is clean",
        DenoisingConfig(
            corruption=CorruptionConfig(schedule=NO_NOISE, p_min=0.75, p_max=0.75), supervise="masked"
        ),
        Denoising,
    ),
    "dsm": ObjectiveSpec(
        "Vincent, A Connection Between Score Matching and Denoising Autoencoders, 2011",
        "denoise; nothing is masked",
        DenoisingConfig(corruption=CorruptionConfig(p_min=0.0, p_max=0.0), supervise="visible"),
        Denoising,
    ),
    "diffmae": ObjectiveSpec(
        "Wei et al., Diffusion Models as Masked Autoencoders, ICCV 2023",
        "denoise what is masked; the rest is clean",
        DenoisingConfig(
            corruption=CorruptionConfig(
                schedule=Schedule(kind="vp"), p_min=0.75, p_max=0.75, noise_on="masked"
            ),
            supervise="masked",
        ),
        Denoising,
    ),
}


def objective_config(name: str, options: ObjectiveOptions | None = None) -> DenoisingConfig:
    """An objective's published settings with a user's changes.

    Raises:
        ConfigError: an unknown name, or settings that exclude each other.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"no objective {name!r}", mend=f"use one of {', '.join(OBJECTIVES)}")
    settings = OBJECTIVES[name].settings
    given = {} if options is None else options.given()
    if name in ("mae", "dsm"):
        _refuse(name, given, {"mae": ("noise", "sigma_max"), "dsm": ("p_min", "p_max")}[name])
    schedule = replace(
        settings.corruption.schedule,
        **{field: given.pop(option) for option, field in _SCHEDULE_OPTIONS.items() if option in given},
    )
    own = {field.name for field in fields(CorruptionConfig)}
    corruption = replace(
        settings.corruption, schedule=schedule, **{key: given.pop(key) for key in list(given) if key in own}
    )
    return replace(settings, corruption=corruption, **given)


_SCHEDULE_OPTIONS = {"noise": "kind", "sigma_max": "sigma_max"}


def _refuse(name: str, given: dict[str, Any], options: tuple[str, ...]) -> None:
    """An option that would turn an objective into another one is an error, not a surprise."""
    for option in options:
        if option in given:
            raise ConfigError(f"objective {name} has no {option}", mend="use objective mdae to change it")


def build_objective(name: str, network: ResidualUNet, options: ObjectiveOptions | None = None) -> Objective:
    """An objective by name on a network."""
    config = objective_config(name, options)
    return OBJECTIVES[name].build(network, config)


def describe(name: str, config: DenoisingConfig) -> dict[str, Any]:
    """The JSON-able record of an objective that is written into a saved model."""
    return {"name": name, **asdict(config)}
