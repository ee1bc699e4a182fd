"""The two corruptions of MDAE: block masking and diffusion noise, drawn once and applied purely."""

from mdae.corruption.corrupt import Corrupted, CorruptionConfig, CorruptionDraw, apply, draw
from mdae.corruption.mask import block_grid, draw_blocks, draw_count, expand_blocks
from mdae.corruption.schedule import Coefficients, Schedule, tweedie_score
from mdae.corruption.times import Times

__all__ = [
    "Coefficients",
    "Corrupted",
    "CorruptionConfig",
    "CorruptionDraw",
    "Schedule",
    "Times",
    "apply",
    "block_grid",
    "draw",
    "draw_blocks",
    "draw_count",
    "expand_blocks",
    "tweedie_score",
]
