"""How well two masks agree: Dice and the normalised surface distance (NSD), by MONAI.

Where reference and prediction are both empty the two agree, 1; where one alone is, 0. So the organisers of BraTS count
(an absent enhancing tumour that is called absent scores 1); nnU-Net's own summary leaves such cases out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from monai.metrics import compute_dice, compute_surface_dice

from mdae.types import Spacing


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Twice the common voxels over those of both masks, (D, H, W) bool; in [0, 1]."""
    return float(compute_dice(_batch(prediction), _batch(reference), ignore_empty=False))


def surface_dice(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, tolerance_mm: float = 1.0
) -> float:
    """The share of both surfaces that lies within a tolerance of the other (Nikolov et al. 2018); in [0, 1].

    A mask's surface are its voxels with a neighbour, of six, that is not in it; outside of the volume nothing is. Each
    counts as one, and distances go from centre to centre.

    Args:
        prediction, reference: (D, H, W) bool.
        spacing_mm: of the voxels.
        tolerance_mm: at least 0.
    """
    if not (prediction.any() or reference.any()):
        return 1.0
    if not (prediction.any() and reference.any()):
        return 0.0
    both = _around(prediction | reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        share = compute_surface_dice(
            _batch(prediction[both]),
            _batch(reference[both]),
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=list(spacing_mm),
        )
    return float(share)


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of a mask; distances between voxels in it do not change by cutting it out."""
    box = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[None, None]


def overlap_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    classes: Mapping[str, tuple[int, ...]],
    spacing_mm: Spacing,
    tolerance_mm: float,
) -> dict[str, float]:
    """Dice and NSD of every class, as `dice_NAME` and `nsd_NAME`.

    Args:
        prediction, reference: (D, H, W) of label values.
        classes: the values that make up each class; classes may overlap.
        spacing_mm, tolerance_mm: as above.
    """
    scores = {}
    for name, values in classes.items():
        one, other = np.isin(prediction, values), np.isin(reference, values)
        scores[f"dice_{name}"] = dice(one, other)
        scores[f"nsd_{name}"] = surface_dice(one, other, spacing_mm, tolerance_mm)
    return scores
