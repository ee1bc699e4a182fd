"""How times are distributed: uniform as in the paper, or with more weight on some noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Times:
    """The distribution of t before it is stretched over [t_min, t_max].

    Every kind is a function of one uniform number, its quantile: another kind changes no other draw.

    Args:
        kind: "uniform"; "logit_normal", whose logit is N(loc, scale^2), which favours the middle (Esser et al., Scaling
            Rectified Flow Transformers, 2024); or "low_noise", Beta(1, beta), which favours the clean end.
        loc, scale: of "logit_normal"; the other kinds have none of their own.
        beta: of "low_noise"; 1 is uniform, 2 falls linearly to 0 at t = 1.
    """

    kind: Literal["uniform", "logit_normal", "low_noise"] = "uniform"
    loc: float = 0.0
    scale: float = 1.0
    beta: float = 2.0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit_normal", "low_noise"):
            raise ConfigError(
                f"unknown distribution of times {self.kind!r}", mend="use uniform, logit_normal or low_noise"
            )
        if not abs(self.loc) <= 20 or not 0 < self.scale <= 20 or not 0 < self.beta <= 100:
            raise ConfigError(
                f"times with loc {self.loc}, scale {self.scale}, beta {self.beta}",
                mend="give a loc within 20, a scale above 0 and up to 20, a beta above 0 and up to 100",
            )

    def quantile(self, u: Tensor) -> Tensor:
        """The time below which a share u, in [0, 1), of all times lies."""
        if self.kind == "logit_normal":
            return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(u))
        if self.kind == "low_noise":
            return -torch.expm1(torch.log1p(-u) / self.beta)
        return u
