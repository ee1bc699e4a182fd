"""A slow reading of the method's equations in plain NumPy, voxel by voxel, that shares no code with the package."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np


def mask_of_blocks(
    blocks: np.ndarray, shape: tuple[int, int, int], block: tuple[int, int, int]
) -> np.ndarray:
    """(2): the block mask (cm, gD, gH, gW) of one sample, voxel by voxel."""
    mask = np.zeros((blocks.shape[0], *shape), dtype=bool)
    for c, x, y, z in itertools.product(range(blocks.shape[0]), *map(range, shape)):
        mask[c, x, y, z] = blocks[c, x // block[0], y // block[1], z // block[2]]
    return mask


def coefficients(kind: str, sigma_max: float, t: float) -> tuple[float, float]:
    """(1): alpha and sigma."""
    return {
        "ve": (1.0, t * sigma_max),
        "vp": ((1 - t) ** 0.5, t**0.5),
        "flow": (1 - t, t),
        "none": (1.0, 0.0),
    }[kind]


def corrupt(
    clean: np.ndarray, mask: np.ndarray, noise: np.ndarray | None, alpha: float, sigma: float, noise_on: str
) -> np.ndarray:
    """(1) and (4) for one sample (C, D, H, W); `mask` has one channel or C."""
    out = np.empty_like(clean, dtype=np.float64)
    for index in np.ndindex(*clean.shape):
        channel, *voxel = index
        masked = mask[channel if mask.shape[0] > 1 else 0][tuple(voxel)]
        noised = alpha * clean[index] + (sigma * noise[index] if noise is not None else 0.0)
        if noise_on == "masked":
            out[index] = noised if masked else clean[index]
        else:
            out[index] = 0.0 if masked else noised
    return out


def weight(weighting: str, w_max: float, alpha: float, sigma: float) -> float:
    """The w of (8)."""
    if sigma == 0:
        return 0.0
    if weighting == "uniform":
        return min(1.0, w_max)
    ratio = sigma / alpha if alpha else np.inf
    if weighting == "min_snr":
        return min(1 / ratio**2, w_max)
    return min(1 / ratio**2 + 1, w_max)


def loss(
    prediction: np.ndarray,
    clean: np.ndarray,
    masks: np.ndarray,
    weights: list[float],
    *,
    lambda_masked: float = 1.0,
    lambda_visible: float = 1.0,
) -> float:
    """(7) to (9) for a batch: means over each channel's regions first, over the channels that have any, the batch."""
    total = 0.0
    for x_hat, x0, mask, w in zip(prediction, clean, masks, weights, strict=True):
        region = np.broadcast_to(mask, x0.shape)
        error = (x_hat.astype(np.float64) - x0) ** 2
        masked, visible = (
            np.mean([e[r].mean() for e, r in zip(error, part, strict=True) if r.any()]) if part.any() else 0.0
            for part in (region, ~region)
        )
        total += lambda_masked * masked + lambda_visible * w * visible
    return total / len(clean)


def taught_voxels(
    clean: np.ndarray, known: np.ndarray, block: tuple[int, int, int], per_channel: bool
) -> np.ndarray:
    """Voxels of blocks with a known voxel 0.25 above the darkest known one of its channel, (1 or C, D, H, W)."""
    bright = np.zeros(clean.shape, dtype=bool)
    for c in range(len(clean)):
        if known[c].any():
            bright[c] = known[c] & (clean[c] > clean[c][known[c]].min() + np.float32(0.25))
    if not per_channel:
        bright = bright.any(axis=0, keepdims=True)
    out = np.zeros_like(bright)
    for c, x, y, z in itertools.product(*map(range, bright.shape)):
        corner = [i // edge * edge for i, edge in zip((x, y, z), block, strict=True)]
        box = tuple(slice(first, first + edge) for first, edge in zip(corner, block, strict=True))
        out[c, x, y, z] = bright[c][box].any()
    return out


def gradient_term(prediction: np.ndarray, clean: np.ndarray, region: np.ndarray) -> float:
    """The mean squared error of the differences of neighbours within the region, by channel; arrays (C, D, H, W)."""
    error, squares = prediction.astype(np.float64) - clean, [[] for _ in clean]
    for index in np.ndindex(*error.shape):
        for axis in (1, 2, 3):
            after = tuple(i + (a == axis) for a, i in enumerate(index))
            if after[axis] < error.shape[axis] and region[index] and region[after]:
                squares[index[0]].append((error[after] - error[index]) ** 2)
    means = [np.mean(own) for own in squares if own]
    return float(np.mean(means)) if means else 0.0


def preconditioned(
    network: Callable[[np.ndarray], np.ndarray],
    seen: np.ndarray,
    noised: np.ndarray,
    alpha: float,
    sigma: float,
) -> np.ndarray:
    """D(x) of Karras et al. 2022 with sigma_data = 1 on noised voxels of a batch; the network alone elsewhere."""
    deviation = (alpha**2 + sigma**2) ** 0.5
    output = network(np.where(noised, seen / deviation, seen))
    return np.where(noised, alpha / deviation**2 * seen + sigma / deviation * output, output)
