"""The probe of voxels itself: what is learned from, a line a class, and whole scans segmented by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mdae.data.preprocess import PreparedScan, to_native
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.nnunet.labels import LabelScheme, remapped
from mdae.evaluation.voxel_probe.features import features_at, read_out

STRENGTH = 0.1  # scikit-learn's C, of standardised features; there are many more points than features
OUTSIDE = -1e6  # log-odds of voxels that the prepared scan does not hold


@dataclass(frozen=True)
class Subject:
    """A case whose files were all read.

    Attributes:
        mask: (D, H, W) of the scheme's values, or of the file's before there is a scheme.
        affine: its.
        scans: prepared, by modality.
    """

    mask: np.ndarray
    affine: np.ndarray
    scans: Mapping[str, PreparedScan]


@dataclass(frozen=True)
class Points:
    """Voxels of a subject to learn from.

    Attributes:
        features: (P, F) by modality.
        values: (P,) of the mask's file.
        stand_for: (P,) how many voxels of the subject each was drawn from.
    """

    features: Mapping[str, np.ndarray]
    values: np.ndarray
    stand_for: np.ndarray


@dataclass(frozen=True)
class Readout:
    """A line a class.

    Log-odds among the drawn points, where classes are more frequent than in a scan, are weights (K, F) @ features +
    biases (K,). From thresholds (K,) on, a voxel is called the class's.
    """

    weights: np.ndarray
    biases: np.ndarray
    thresholds: np.ndarray


def draw_points(encoder: Encoder, subject: Subject, number: int, rng: np.random.Generator) -> Points:
    """Some voxels that every prepared scan holds: half are background, and the labels share the others."""
    held = np.ones(subject.mask.shape, dtype=bool)
    for scan in subject.scans.values():
        held &= to_native(np.ones_like(scan.data), scan.record, fill=0.0) > 0.5
    values = np.unique(subject.mask[held])
    drawn, stand_for = [], []
    for value in values.tolist():
        there = np.flatnonzero(held & (subject.mask == value))
        share = number // 2 if value == 0 else number // 2 // max(1, int((values != 0).sum()))
        some = rng.choice(there, size=min(len(there), max(1, share)), replace=False)
        drawn.append(some)
        stand_for.append(np.full(len(some), len(there) / len(some)))
    voxels = np.stack(np.unravel_index(np.concatenate(drawn), subject.mask.shape), axis=1)
    world = apply_affine(subject.affine, voxels)
    features = {
        name: features_at(
            encoder, scan.data, scan.record.background, apply_affine(np.linalg.inv(scan.affine), world)
        )
        for name, scan in subject.scans.items()
    }
    return Points(features, subject.mask[tuple(voxels.T)], np.concatenate(stand_for))


def fit_readout(points: Sequence[Points], modalities: Sequence[str], scheme: LabelScheme) -> Readout:
    """A logistic regression a class, and from which log-odds on a voxel is called the class's: where Dice is best.

    Args:
        points: of training subjects.
        modalities: whose features stand side by side.
        scheme: the classes; voxels that nobody labelled are left out.
    """
    side_by_side = [np.concatenate([own.features[name] for name in modalities], axis=1) for own in points]
    x = np.concatenate(side_by_side)
    values = np.concatenate([remapped(own.values, scheme) for own in points])
    stand_for = np.concatenate([own.stand_for for own in points])
    if scheme.ignore is not None:
        x, values, stand_for = (array[values != scheme.ignore] for array in (x, values, stand_for))
    lines = [_fit_line(x, np.isin(values, own), stand_for) for own in scheme.classes.values()]
    weights, biases, thresholds = (np.stack(part) for part in zip(*lines, strict=True))
    return Readout(weights, biases, thresholds)


def _fit_line(x: np.ndarray, y: np.ndarray, stand_for: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Weights (F,), bias and threshold of a class; where there is nothing to tell apart, what was never seen is never
    called."""
    if y.all() or not y.any():
        return np.zeros(x.shape[1]), 0.0, -np.inf if y.all() else np.inf
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    with threadpool_limits(1):
        line = LogisticRegression(C=STRENGTH, max_iter=1000).fit(scaled, y)
    weights = line.coef_[0] / scaler.scale_
    bias = float(line.intercept_[0] - weights @ scaler.mean_)
    return weights, bias, best_threshold(line.decision_function(scaled), y, stand_for)


def best_threshold(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The score, of those given, from which on to call voxels positive for the best Dice; weights (P,) count them."""
    order = np.argsort(-scores, kind="stable")
    called, right = np.cumsum(weights[order]), np.cumsum((weights * labels)[order])
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    agreement = np.where(last_of_equals, 2 * right / (called + right[-1]), -1.0)
    return float(scores[order][agreement.argmax()])


def segment(
    encoder: Encoder,
    subject: Subject,
    readouts: Mapping[str, Readout],
    views: Mapping[str, tuple[str, ...]],
) -> dict[str, np.ndarray]:
    """Log-odds (K, D, H, W) of every class at every voxel of the mask, by view; each scan goes through once."""
    width, parts = encoder.num_features, {}
    odds: dict[str, np.ndarray] = {}
    for name, scan in subject.scans.items():
        using = [view for view, names in views.items() if name in names]
        for view in using:
            place = views[view].index(name) * width
            parts[view] = readouts[view].weights[:, place : place + width]
        weights = np.concatenate([parts[view] for view in using])
        maps = read_out(encoder, scan.data, scan.record.background, weights)
        native = np.stack([to_native(one, scan.record, fill=OUTSIDE) for one in maps])
        for view, own in zip(using, np.split(native, len(using)), strict=True):
            odds[view] = odds.get(view, 0.0) + own
    return {view: total + readouts[view].biases[:, None, None, None] for view, total in odds.items()}
