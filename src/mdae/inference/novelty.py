"""How far a scan's features lie from those that a model was fitted on: a shrunk Mahalanobis distance.

The covariance of a hundred scans in hundreds of features is shrunk towards a sphere (Ledoit and Wolf 2004), which is
kept as its axes and the variance off them, never as the scans themselves. How far is far is told by the scans that were
fitted on, each measured by a covariance of the others' subjects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

Split = tuple[np.ndarray, np.ndarray]
FLOOR = 1e-6  # of a standardised feature's variance, where all scans agree


@dataclass(frozen=True)
class Cloud:
    """Where features lie.

    Attributes:
        mean, scale: (F,), that standardise a feature.
        axes: (R, F), orthonormal directions of standardised features; R is less than the number of scans.
        spread: (R,), shrunk variances along them.
        rest: the variance along every other direction.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    rest: float

    @classmethod
    def of(cls, features: np.ndarray) -> Cloud:
        """The cloud of some features (N, F)."""
        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        standard = (features - mean) / scale
        shrinkage = float(ledoit_wolf_shrinkage(standard, assume_centered=True))
        _, singular, axes = np.linalg.svd(standard, full_matrices=False)
        variances = singular**2 / len(features)
        kept = variances > FLOOR
        rest = max(FLOOR, shrinkage * float(variances.sum()) / features.shape[1])
        return cls(mean, scale, axes[kept], (1 - shrinkage) * variances[kept] + rest, rest)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Root mean square of standardised deviations, (N,), of features (N, F): about 1 for those of the cloud."""
        standard = (features - self.mean) / self.scale
        along = standard @ self.axes.T
        off = np.maximum(0.0, (standard**2).sum(axis=1) - (along**2).sum(axis=1))
        square = (along**2 / self.spread).sum(axis=1) + off / self.rest
        return np.asarray(np.sqrt(square / self.mean.size))


@dataclass(frozen=True)
class Novelty:
    """A cloud with the distances, ascending, of scans from clouds that their subjects had no part in."""

    cloud: Cloud
    known: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, splits: Iterable[Split]) -> Novelty:
        """From features (N, F) and folds by subject."""
        known = [Cloud.of(features[train]).distance(features[test]) for train, test in splits]
        return cls(Cloud.of(features), np.sort(np.concatenate(known)))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """How many times as far as the median scan that was fitted on, (N,)."""
        return self.cloud.distance(features) / max(float(np.median(self.known)), FLOOR)

    def share_as_far(self, features: np.ndarray) -> np.ndarray:
        """The share of scans, (N,), that lie as far, each being one of them (a conformal p-value)."""
        nearer = np.searchsorted(self.known, self.cloud.distance(features), side="left")
        return np.asarray((len(self.known) - nearer + 1) / (len(self.known) + 1))

    def tensors(self) -> dict[str, np.ndarray]:
        """Everything, by name."""
        own = self.cloud
        return {
            "novelty.mean": own.mean,
            "novelty.scale": own.scale,
            "novelty.axes": own.axes,
            "novelty.spread": own.spread,
            "novelty.rest": np.array([own.rest]),
            "novelty.known": self.known,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Novelty:
        """The inverse of `tensors`; raises `KeyError`."""
        own = {name: tensors[f"novelty.{name}"] for name in ("mean", "scale", "axes", "spread")}
        return cls(Cloud(**own, rest=float(tensors["novelty.rest"][0])), tensors["novelty.known"])
