"""How much features differ between crops, stage by stage: 0 where every crop gives the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mdae.training.diagnostics import Moment
from mdae.training.diagnostics.features import Looker


def deviation(features: np.ndarray) -> float:
    """The mean over channels of their standard deviation by their root mean square, (N, C) to 0 to 1.

    Channels that are always 0 count as 0.
    """
    size = np.sqrt((features.astype(np.float64) ** 2).mean(axis=0))
    spread = features.astype(np.float64).std(axis=0)
    return float(np.divide(spread, size, out=np.zeros_like(spread), where=size > 0).mean())


class Deviation:
    """The deviation of each stage's means over crops.

    Args:
        looker: whose features.
    """

    table = "deviation"

    def __init__(self, looker: Looker) -> None:
        self.looker = looker

    def look(self, moment: Moment) -> Mapping[str, float]:
        """`stage0` is the finest."""
        means = self.looker.look(moment).means
        return {f"stage{number}": deviation(own) for number, own in enumerate(means)}
