"""How much a noise level counts in the visible term, the w of equation (8)."""

from __future__ import annotations

import torch
from torch import Tensor

from mdae.corruption import Coefficients
from mdae.types import Weighting

SIGMA_DATA = 1.0  # volumes are z-scored


def visible_weight(coefficients: Coefficients, weighting: Weighting, w_max: float) -> Tensor:
    """The weight of each sample's visible term, (B,).

    - "inverse_error": (sigma^2 + sigma_data^2) / (sigma^2 sigma_data^2), one over the error of the best linear
      denoiser, so that every noise level contributes equally. For a schedule that also scales the clean volume
      by alpha, sigma is sigma / alpha.
    - "min_snr": the signal-to-noise ratio sigma_data^2 / sigma^2 (Hang et al. 2023, for a prediction of the clean
      volume).
    - "uniform": 1.

    All are clipped at `w_max`. Where sigma is exactly 0 there is nothing to denoise, and the weight is 0.
    """
    alpha, sigma = coefficients
    noise, signal = sigma**2, (alpha * SIGMA_DATA) ** 2
    if weighting == "uniform":
        weight = torch.ones_like(sigma)
    elif weighting == "min_snr":
        weight = signal / noise
    else:
        weight = (noise + signal) / (noise * SIGMA_DATA**2)  # (8)
    return torch.where(sigma > 0, weight.clamp(max=w_max), 0.0)
