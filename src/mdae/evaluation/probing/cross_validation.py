"""Subjects scored by models that never saw them; what is chosen is chosen within each training part alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from mdae.evaluation.probing.estimators import Protocol
from mdae.seeding import key

INNER_FOLDS = 4


def folds_by_subject(
    labels: np.ndarray, subjects: np.ndarray, folds: int, seed: int, *, stratified: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Folds of rows, (train, test) indices; no subject on both sides."""
    kind = StratifiedGroupKFold if stratified else GroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros((len(labels), 1)), labels, subjects)


def choose(
    protocol: Protocol, features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, seed: int
) -> float:
    """The candidate with the best mean quality over inner folds of a training part."""
    groups = [labels == value for value in (0, 1)] if protocol.stratified else [np.ones(len(labels), bool)]
    fewest = min(len(np.unique(subjects[group])) for group in groups)
    if fewest < 2:
        return protocol.candidates[len(protocol.candidates) // 2]
    number = min(INNER_FOLDS, fewest)
    inner = key(seed, "inner") % 2**32
    parts = list(folds_by_subject(labels, subjects, number, inner, stratified=protocol.stratified))

    def quality(candidate: float) -> float:
        return float(np.mean([_on_fold(protocol, features, labels, *part, candidate) for part in parts]))

    return max(protocol.candidates, key=quality)


def _on_fold(
    protocol: Protocol,
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    candidate: float,
) -> float:
    if protocol.stratified and len(np.unique(labels[train])) < 2:
        return 0.5
    return protocol.quality(
        labels[test], protocol.fit(features[train], labels[train], candidate)(features[test])
    )


@dataclass(frozen=True)
class Scored:
    """Scores of rows by models that never saw their subject.

    Attributes:
        scores: (N,), log-odds for equally frequent classes, or numbers; for ranking.
        probabilities: (N,), with the training part's share of positives; NaN for numbers.
        chosen: what was chosen in each training part.
    """

    scores: np.ndarray
    probabilities: np.ndarray
    chosen: list[float]


def cross_validate(
    protocol: Protocol,
    features: np.ndarray,
    labels: np.ndarray,
    subjects: np.ndarray,
    *,
    folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
) -> Scored:
    """Each row scored by models that never saw its subject, averaged over repeats; choices made in training parts.

    Args:
        protocol: how.
        features: (N, F), one row a scan.
        labels: (N,) of 0 and 1, or numbers.
        subjects: (N,); all rows of a subject are on one side.
        folds, repeats, seed: of the outer cross-validation.
    """
    scores, probabilities, chosen = np.zeros(len(labels)), np.zeros(len(labels)), []
    seeds = [key(seed, "folds", repeat) % 2**32 for repeat in range(repeats)]
    with threadpool_limits(1):  # hundreds of small fits: threads would wait for each other most of the time
        for outer in seeds:
            split = folds_by_subject(labels, subjects, folds, outer, stratified=protocol.stratified)
            for train, test in split:
                chosen.append(choose(protocol, features[train], labels[train], subjects[train], seed))
                raw = protocol.fit(features[train], labels[train], chosen[-1])(features[test])
                scores[test] += raw / repeats
                probabilities[test] += probability_of(raw, labels[train], protocol) / repeats
    return Scored(scores, probabilities, chosen)


def hold_out(
    protocol: Protocol,
    features: np.ndarray,
    labels: np.ndarray,
    subjects: np.ndarray,
    parts: np.ndarray,
    seed: int,
) -> Scored:
    """All rows scored by one model of the train and val rows; test rows had no part in any choice.

    Args:
        parts: (N,) of "train", "val" or "test"; without val rows of both classes the choice is by inner folds of the
            train and val rows.
    """
    train, val = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "val")
    fitted = np.concatenate([train, val])
    with threadpool_limits(1):  # as above
        if len(val) and not (protocol.stratified and len(np.unique(labels[val])) < 2):
            best = max(protocol.candidates, key=lambda c: _on_fold(protocol, features, labels, train, val, c))
        else:
            best = choose(protocol, features[fitted], labels[fitted], subjects[fitted], seed)
        raw = protocol.fit(features[fitted], labels[fitted], best)(features)
    return Scored(raw, probability_of(raw, labels[fitted], protocol), [best])


def probability_of(scores: np.ndarray, labels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Log-odds for equally frequent classes to probabilities with the share of positives among `labels`."""
    if not protocol.stratified:
        return np.full(len(scores), np.nan)
    share = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    return np.asarray(expit(scores + math.log(share / (1 - share))))
