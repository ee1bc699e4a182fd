"""Tensor aliases with axes. Volumes are (C, D, H, W), batches (B, C, D, H, W)."""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Batch: TypeAlias = Float[Tensor, "B C D H W"]
Mask: TypeAlias = Bool[Tensor, "B cm D H W"]  # True = MASKED, hidden from the network; cm is 1 (shared) or C
PerSample: TypeAlias = Float[Tensor, "B"]
