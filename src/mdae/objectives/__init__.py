"""Pre-training objectives behind one interface, and the registry that the command line reads."""

from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.denoising import Denoising, DenoisingConfig, squared_error_terms
from mdae.objectives.registry import OBJECTIVES, build_objective, objective_config
from mdae.objectives.weighting import visible_weight

__all__ = [
    "OBJECTIVES",
    "Denoising",
    "DenoisingConfig",
    "Objective",
    "StepOutput",
    "build_objective",
    "objective_config",
    "squared_error_terms",
    "visible_weight",
]
