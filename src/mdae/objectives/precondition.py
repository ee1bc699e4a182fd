"""Preconditioning of the network's input and output, after Karras et al., Elucidating the Design Space of
Diffusion-Based Generative Models, NeurIPS 2022, Table 1, with sigma_data = 1.

There `D(x; sigma) = c_skip x + c_out F(c_in x)`: the network sees unit variance at every noise level and predicts
what is unknown, of unit variance too. Noise here may also scale the volume, `x = alpha X0 + sigma Z`. Masked voxels
are the limit of endless noise, in which nothing of x is left: their input stays what it is, exactly 0 as a rule, and
the network's output alone is the prediction. The time is still what the network is told.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mdae.corruption import Coefficients
from mdae.objectives.weighting import SIGMA_DATA
from mdae.tensors import Batch, Mask


class Scales(NamedTuple):
    """Factors of one noise level, (B,) each."""

    skip: Tensor
    out: Tensor
    input: Tensor


def scales(coefficients: Coefficients) -> Scales:
    """c_skip, c_out and c_in: the best linear prediction of X0 from x, the deviation of its error, and 1 / std(x)."""
    alpha, sigma = coefficients
    variance = (alpha * SIGMA_DATA) ** 2 + sigma**2
    return Scales(alpha * SIGMA_DATA**2 / variance, sigma * SIGMA_DATA / variance.sqrt(), variance.rsqrt())


def network_input(seen: Batch, noised: Mask, coefficients: Coefficients) -> Batch:
    """c_in x on noised voxels, x elsewhere.

    Args:
        seen: x, (B, C, D, H, W).
        noised: voxels that are `alpha X0 + sigma Z`, (B, 1 or C, D, H, W).
        coefficients: alpha and sigma, (B,) each.
    """
    return torch.where(noised, _per_sample(scales(coefficients).input) * seen, seen)


def prediction_from(output: Tensor, seen: Batch, noised: Mask, coefficients: Coefficients) -> Tensor:
    """X^ from the network's output F: c_skip x + c_out F on noised voxels, F elsewhere; arguments as above."""
    skip, out, _ = (_per_sample(value) for value in scales(coefficients))
    return torch.where(noised, skip * seen + out * output, output.to(seen.dtype))


def _per_sample(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)
