"""One multinomial regression of a voxel's label on its features, and offsets that make the best Dice of it.

Classes that exclude each other are weighed against each other, which a regression for each alone cannot do.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mdae.errors import DataError

STRENGTH = 0.03  # scikit-learn's C, of standardised features (benchmarks/segment.py)
ITERATIONS = 200
NEVER = -1e4  # score of a label that was never seen
OFFSETS = (-4.0, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)  # of the background's score
HELD_OUT = 4  # parts, by subject, on whose left out points offsets are chosen


@dataclass(frozen=True)
class Points:
    """Voxels of a subject to learn from.

    Attributes:
        subject: whose.
        features: (P, F).
        labels: (P,) numbers from 0, the background.
        stand_for: (P,) how many voxels of the subject each was drawn from.
    """

    subject: str
    features: np.ndarray
    labels: np.ndarray
    stand_for: np.ndarray


@dataclass(frozen=True)
class Readout:
    """Linear functions of a voxel's features, one a label; the label of the highest is the voxel's.

    Attributes:
        weights: (K, F).
        biases: (K,). The softmax of weights @ features + biases is the probability of each label among the voxels of
            a scan, but for the background, which is favoured or disfavoured as Dice is best by it.
        spread: (F,), the features' standard deviations among the points.
    """

    weights: np.ndarray
    biases: np.ndarray
    spread: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The labels' scores (P, K) of points (P, F)."""
        return np.asarray(features @ self.weights.T + self.biases)


def fit_readout(
    points: Sequence[Points],
    num_labels: int,
    *,
    val: Sequence[Points] = (),
    strength: float = STRENGTH,
) -> Readout:
    """Fit a readout on points of subjects.

    Args:
        points: of each volume.
        num_labels: K.
        val: of other subjects, on which the background's offset is chosen; without any it is chosen on subjects of
            `points` that are left out in turn.
        strength: how little the weights are held back, scikit-learn's C.

    Raises:
        DataError: all points have one label.
    """
    plain = _fit(points, num_labels, strength)
    offset = _offset_on(plain, val) if val else _best_offset(points, num_labels, strength)
    return Readout(plain.weights, plain.biases + offset * (np.arange(num_labels) == 0), plain.spread)


def _fit(points: Sequence[Points], num_labels: int, strength: float) -> Readout:
    """The regression, its biases set to how frequent each label is in a scan."""
    x = np.concatenate([own.features for own in points]).astype(np.float64)
    y = np.concatenate([own.labels for own in points])
    seen = np.unique(y)
    if len(seen) < 2:
        raise DataError("all voxels have one label", mend="check the masks")
    scaler = StandardScaler().fit(x)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough long before
        line = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3).fit(scaler.transform(x), y)
    own, bias = (
        np.vstack([-part, part]) / 2 if len(seen) == 2 else part for part in (line.coef_, line.intercept_)
    )
    own = own / scaler.scale_
    weights, biases = np.zeros((num_labels, x.shape[1])), np.full(num_labels, NEVER)
    weights[seen] = own
    biases[seen] = np.ravel(bias) - own @ scaler.mean_ + _log_odds_of_scans(points, y, seen)
    return Readout(weights, biases, scaler.scale_)


def _log_odds_of_scans(points: Sequence[Points], labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Log of how much more frequent each seen label is in scans than among the points."""
    shares = np.zeros(len(seen))
    for own in points:
        each = np.array([own.stand_for[own.labels == label].sum() for label in seen])
        shares += each / each.sum() / len(points)
    drawn = np.array([(labels == label).mean() for label in seen])
    return np.asarray(np.log(shares / drawn))


def _offset_on(line: Readout, val: Sequence[Points]) -> float:
    """The background's offset with the best Dice on points that the regression has not seen."""
    scores = [line.scores(own.features) for own in val]
    gained = [
        sum(_agreement(found, own, offset) for found, own in zip(scores, val, strict=True))
        for offset in OFFSETS
    ]
    return OFFSETS[int(np.argmax(gained))]


def _best_offset(points: Sequence[Points], num_labels: int, strength: float) -> float:
    """The background's offset with the best Dice on subjects that the regression has not seen; 0 if there is one."""
    subjects = sorted({own.subject for own in points})
    if len(subjects) < 2:
        return 0.0
    gained = np.zeros(len(OFFSETS))
    for part in range(min(HELD_OUT, len(subjects))):
        out = set(subjects[part::HELD_OUT])
        left = [own for own in points if own.subject not in out]
        try:
            line = _fit(left, num_labels, strength)
        except DataError:  # nothing but background among the others
            continue
        for own in points:
            if own.subject in out:
                gained += [_agreement(line.scores(own.features), own, offset) for offset in OFFSETS]
    return OFFSETS[int(gained.argmax())]


def _agreement(scores: np.ndarray, own: Points, offset: float) -> float:
    """Mean Dice over the labels of a subject, its points counted as the voxels that they stand for."""
    called = (scores + offset * (np.arange(scores.shape[1]) == 0)).argmax(axis=1)
    found = []
    for label in np.unique(own.labels[own.labels > 0]):
        here, there = called == label, own.labels == label
        both = own.stand_for[here & there].sum()
        found.append(2 * both / (own.stand_for[here].sum() + own.stand_for[there].sum()))
    return float(np.mean(found)) if found else 0.0
