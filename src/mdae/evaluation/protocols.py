"""How frozen features are judged: a model with one thing to choose, chosen within the training part alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mdae.evaluation.metrics import weighted_auroc
from mdae.seeding import key

INNER_FOLDS = 4
Predictor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """A way to judge features.

    Attributes:
        candidates: the values of what is chosen.
        fit: features (N, F), labels (N,) and a candidate to a function of features that scores: log-odds for two
            equally frequent classes, or the number itself.
        quality: labels and scores to a number that is larger for the better.
        stratified: whether folds keep the classes' shares.
    """

    name: str
    candidates: tuple[float, ...]
    fit: Callable[[np.ndarray, np.ndarray, float], Predictor]
    quality: Callable[[np.ndarray, np.ndarray], float]
    stratified: bool = True


def _logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Predictor:
    """Standardisation and L2 logistic regression; classes weigh the same.

    Else a fold's intercept follows its class mix, which is the opposite of the test part's, and scores of several folds
    together would fall below chance where there is nothing to find.
    """
    logistic = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
    model = make_pipeline(StandardScaler(), logistic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ranks have long settled by then
        model.fit(features, labels)
    return lambda x: np.asarray(model.decision_function(x))


def _neighbours(features: np.ndarray, labels: np.ndarray, number: float) -> Predictor:
    """Log-odds of the nearest subjects by cosine, each class as frequent as the other."""
    scaler = StandardScaler().fit(features)
    search = NearestNeighbors(n_neighbors=min(int(number), len(labels)), metric="cosine")
    search.fit(scaler.transform(features))
    share = float(labels.mean())

    def score(x: np.ndarray) -> np.ndarray:
        _, nearest = search.kneighbors(scaler.transform(x))
        positive = labels[nearest].sum(axis=1) / share
        negative = (1 - labels[nearest]).sum(axis=1) / (1 - share)
        return np.asarray(np.log(positive + 1) - np.log(negative + 1))

    return score


def _ridge(features: np.ndarray, labels: np.ndarray, strength: float) -> Predictor:
    model = make_pipeline(StandardScaler(), Ridge(alpha=1 / strength)).fit(features, labels)
    return lambda x: np.asarray(model.predict(x))


def _area(labels: np.ndarray, scores: np.ndarray) -> float:
    if len(np.unique(labels)) < 2:
        return 0.5
    return float(weighted_auroc(labels, scores, np.ones((1, len(labels))))[0])


def _less_error(labels: np.ndarray, scores: np.ndarray) -> float:
    return -float(np.abs(labels - scores).mean())


LINEAR = Protocol("linear", (1e-4, 1e-3, 1e-2, 1e-1, 1.0), _logistic, _area)
KNN = Protocol("knn", (1, 3, 5, 9, 15, 25), _neighbours, _area)
RIDGE = Protocol("linear", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), _ridge, _less_error, stratified=False)


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
