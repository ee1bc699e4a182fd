"""Noise schedules: how much of the clean volume and how much noise there is at time t.

Every schedule is `X_t = alpha_t X0 + sigma_t Z` with Z ~ N(0, I) and t in [0, 1], t = 0 clean. Volumes are
z-scored, so sigma is in units of the volume's standard deviation and sigma_data = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mdae.errors import ConfigError
from mdae.tensors import PerSample
from mdae.types import NoiseKind


class Coefficients(NamedTuple):
    """`alpha` scales the clean volume, `sigma` the noise; both (B,)."""

    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A noise schedule, equation (1).

    Args:
        kind: "ve" (variance exploding), "vp" (variance preserving), "flow" (linear interpolation) or "none".
        sigma_max: the noise level of "ve" at t = 1; the other kinds have none of their own.
    """

    kind: NoiseKind = "ve"
    sigma_max: float = 5.0

    def __post_init__(self) -> None:
        if self.kind not in ("ve", "vp", "flow", "none"):
            raise ConfigError(f"unknown noise schedule {self.kind!r}", mend="use ve, vp, flow or none")
        if not 0 <= self.sigma_max < float("inf"):
            raise ConfigError(f"sigma_max is {self.sigma_max}", mend="give a finite number, 0 or more")

    @property
    def noiseless(self) -> bool:
        """Whether this schedule never adds noise: t is then always 0 and no noise is drawn."""
        return self.kind == "none" or (self.kind == "ve" and self.sigma_max == 0)

    def at(self, t: PerSample) -> Coefficients:
        """The coefficients at times t, shape (B,)."""
        if self.kind == "vp":
            return Coefficients((1 - t).sqrt(), t.sqrt())
        if self.kind == "flow":
            return Coefficients(1 - t, t)
        sigma_max = 0.0 if self.kind == "none" else self.sigma_max
        return Coefficients(t.new_ones(t.shape), t * sigma_max)  # (1)


def tweedie_score(
    prediction: Tensor, noised: Tensor, coefficients: Coefficients, *, eps: float = 1e-12
) -> Tensor:
    """The score of the noised density from a prediction of the clean volume, Tweedie's formula (10).

    `score(X_t) = (alpha X^ - X_t) / sigma^2`; alpha is 1 for the default schedule. It holds on visible voxels;
    on masked ones X_t is not seen and the result has no meaning.

    Args:
        prediction: X^, (B, C, D, H, W).
        noised: X_t, the same shape.
        coefficients: alpha and sigma, (B,) each; sigma must be above 0.
        eps: the smallest sigma^2 that is divided by.
    """
    per_sample = (-1,) + (1,) * (prediction.dim() - 1)
    alpha, sigma = (value.view(per_sample) for value in coefficients)
    return (alpha * prediction - noised) / (sigma**2).clamp_min(eps)
