"""How well a subject was segmented, on the mask's own voxels."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score

from mdae.evaluation.nnunet.labels import LabelScheme
from mdae.evaluation.statistics.overlap import dice, surface_dice
from mdae.types import Spacing

TOLERANCE_MM = 1.0  # of the NSD
Figures = dict[str, float]


def label_names(scheme: LabelScheme) -> tuple[str, ...]:
    """A name for each of nnU-Net's values from 0: the class that it alone makes up, else its number."""
    alone = {values[0]: name for name, values in scheme.classes.items() if len(values) == 1}
    highest = max(value for values in scheme.classes.values() for value in values)
    return ("background", *(alone.get(value, f"label_{value}") for value in range(1, highest + 1)))


def score_voxels(
    probabilities: np.ndarray,
    mask: np.ndarray,
    scheme: LabelScheme,
    spacing_mm: Spacing,
    *,
    dice_only: bool = False,
) -> Figures:
    """Dice, NSD and average precision of one subject: the means over the classes, then each.

    Average precision asks how well voxels are ranked, so that no threshold spoils it; it is NaN without a voxel of the
    class.

    Args:
        probabilities: (K, D, H, W) of the values from 0; the highest is called.
        mask: (D, H, W) of the scheme's values.
        scheme: classes, which may be several values together, and the value that is not scored.
        spacing_mm: of the voxels.
        dice_only: leave out NSD and average precision.
    """
    counted = mask != (-1 if scheme.ignore is None else scheme.ignore)
    highest = probabilities.argmax(axis=0)
    means, each = {}, {}
    for name, values in scheme.classes.items():
        reference, called = np.isin(mask, values) & counted, np.isin(highest, values) & counted
        each[f"dice_{name}"] = dice(called, reference)
        if dice_only:
            continue
        each[f"nsd_{name}"] = surface_dice(called, reference, spacing_mm, TOLERANCE_MM)
        own = probabilities[list(values)].sum(axis=0)
        there = reference.any()
        each[f"average_precision_{name}"] = (
            float(average_precision_score(reference[counted], own[counted])) if there else float("nan")
        )
    for figure in ("dice",) if dice_only else ("dice", "nsd", "average_precision"):
        known = [each[f"{figure}_{name}"] for name in scheme.classes]
        known = [value for value in known if not np.isnan(value)]
        means[figure] = float(np.mean(known)) if known else float("nan")
    return {**means, **each}
