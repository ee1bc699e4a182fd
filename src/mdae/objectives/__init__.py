"""Pre-training objectives behind one interface, and the registry that the command line reads."""

from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.denoising import Denoising, DenoisingConfig, squared_error_terms
from mdae.objectives.registry import (
    OBJECTIVES,
    ObjectiveSpec,
    build_objective,
    objective_config,
    register,
)
from mdae.objectives.weighting import visible_weight

# Each registers its objectives on import, in the order in which they are listed.
# isort: split
from mdae.objectives import (
    family,
    models_genesis,
    simclr,
    simmim,
    spark,
    swinunetr,
    voco,
    volume_fusion,
)

__all__ = [
    "OBJECTIVES",
    "Denoising",
    "DenoisingConfig",
    "Objective",
    "ObjectiveSpec",
    "StepOutput",
    "build_objective",
    "family",
    "models_genesis",
    "objective_config",
    "register",
    "simclr",
    "simmim",
    "spark",
    "squared_error_terms",
    "swinunetr",
    "visible_weight",
    "voco",
    "volume_fusion",
]
