"""How many directions the deepest features use: few mean that the encoder has collapsed.

Garrido et al., "RankMe: Assessing the downstream performance of pretrained self-supervised representations by their
rank", ICML 2023. Features are centred first: what all scans share says nothing of one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from mdae.training.diagnostics import Moment
from mdae.training.diagnostics.features import Looker

COLLAPSED = 1.5  # directions; fewer, and all scans lie on a line

logger = logging.getLogger(__name__)


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the singular values of centred features (N, C): from 1 to min(N - 1, C); 0 for none.

    NaN if a feature is not finite.
    """
    if not np.isfinite(features).all():
        return math.nan
    centred = features.astype(np.float64) - features.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    if values.sum() <= 1e-9 * max(1.0, float(np.abs(features).max())):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


class Rank:
    """Effective rank of the means of crops, and of single voxels, in the deepest stage.

    Args:
        looker: whose features.
    """

    table = "rank"

    def __init__(self, looker: Looker) -> None:
        self.looker, self.said = looker, False

    def look(self, moment: Moment) -> Mapping[str, float]:
        """`crops` of `most_crops` possible, and `voxels` likewise."""
        found = self.looker.look(moment)
        crops, places = found.means[-1], found.places
        row = {
            "crops": effective_rank(crops),
            "most_crops": float(min(len(crops) - 1, crops.shape[1])),
            "voxels": effective_rank(places),
            "most_voxels": float(min(len(places) - 1, places.shape[1])),
        }
        if row["crops"] < COLLAPSED and not self.said:
            self.said = True
            logger.warning(
                "step %d: features have collapsed: %.1f of %d directions tell crops apart (rank.csv)",
                *(moment.step, row["crops"], int(row["most_crops"])),
            )
        return row
