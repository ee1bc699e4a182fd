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
from mdae.objectives import family

__all__ = [
    "OBJECTIVES",
    "Denoising",
    "DenoisingConfig",
    "Objective",
    "ObjectiveSpec",
    "StepOutput",
    "build_objective",
    "family",
    "objective_config",
    "register",
    "squared_error_terms",
    "visible_weight",
]
