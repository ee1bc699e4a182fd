"""What a user may change of an objective; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mdae.types import NoiseKind, Shape3, Weighting


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Changes to an objective's published settings. What is left out keeps the objective's own."""

    noise: NoiseKind | None = None
    """Noise schedule: ve (variance exploding), vp (variance preserving), flow, or none."""
    sigma_max: float | None = None
    """Noise level of ve at t = 1, in standard deviations of the volume; 0 adds none."""
    p_min: float | None = None
    """Smallest mask ratio; the ratio of a volume is uniform between p_min and p_max."""
    p_max: float | None = None
    """Largest mask ratio; equal to p_min for a fixed ratio."""
    block: Shape3 | None = None
    """Edges of a mask block in voxels."""
    per_channel: bool | None = None
    """Mask every channel on its own."""
    weighting: Weighting | None = None
    """Weight of the visible term by noise level."""
    w_max: float | None = None
    """Upper bound of that weight."""
    lambda_masked: float | None = None
    """Weight of the masked term (inpainting)."""
    lambda_visible: float | None = None
    """Weight of the visible term (denoising)."""

    def given(self) -> dict[str, Any]:
        """The options that were set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
