"""Tensor aliases with axes. Volumes are (C, D, H, W), batches (B, C, D, H, W)."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Batch: TypeAlias = Float[Tensor, "B C D H W"]
Mask: TypeAlias = Bool[Tensor, "B cm D H W"]  # True = MASKED, hidden from the network; cm is 1 (shared) or C
PerSample: TypeAlias = Float[Tensor, "B"]


@cache
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small tensor of constants on a device, one for all who ask: never to be changed in place.

    `torch.tensor(values, device=...)` copies from the host each time, and a GPU's queue is emptied before it does.
    The type is part of the question: (1, 2) and (1.0, 2.0) are equal, and one would be answered with the other.
    """
    with torch.inference_mode(False):  # else what is made there could not be used in training
        return torch.tensor(values, dtype=dtype, device=device)
