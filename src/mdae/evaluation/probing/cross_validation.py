"""Subjects scored by models that never saw them; what is chosen is chosen within each training part alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
    return _search(protocol, features, labels, subjects, seed)[0]


def _search(
    protocol: Protocol, features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, seed: int
) -> tuple[float, np.ndarray | None]:
    """The best candidate, and what each row of a training part scores by a model that did not see its subject.

    Too few subjects for inner folds choose nothing: the middle candidate, and no scores.
    """
    groups = [labels == value for value in np.unique(labels)] if protocol.stratified else [labels == labels]
    fewest = min(len(np.unique(subjects[group])) for group in groups)
    if fewest < 2 or (protocol.stratified and len(groups) < 2):
        return protocol.candidates[len(protocol.candidates) // 2], None
    inner = key(seed, "inner") % 2**32
    number = min(INNER_FOLDS, fewest)
    parts = list(folds_by_subject(labels, subjects, number, inner, stratified=protocol.stratified))
    tried = [_out_of_fold(protocol, features, labels, parts, candidate) for candidate in protocol.candidates]
    best = int(np.argmax([quality for quality, _ in tried]))  # the first of several, as `Protocol` says
    return protocol.candidates[best], tried[best][1]


def _out_of_fold(
    protocol: Protocol,
    features: np.ndarray,
    labels: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    candidate: float,
) -> tuple[float, np.ndarray]:
    """The mean quality of a candidate over parts, and each row's score by the others' model; NaN where none is."""
    scores = np.full(_shape(protocol, len(labels)), np.nan)
    qualities = []
    for train, test in parts:
        if protocol.stratified and len(np.unique(labels[train])) < 2:
            qualities.append(0.5)
            continue
        scores[test] = protocol.fit(features[train], labels[train], candidate)(features[test])
        qualities.append(protocol.quality(labels[test], scores[test]))
    return float(np.mean(qualities)), scores


def _shape(protocol: Protocol, number: int) -> tuple[int, ...]:
    return (number,) if protocol.columns == 1 else (number, protocol.columns)


def to_one_scale(raw: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores of a fold's model on a scale that all folds share: 0 half way between its classes, 1 their spread.

    Each fold chooses its own penalty, and a strong one shrinks all of a fold's scores: pooled as they are, the largest
    fold's spread was some 300 times the smallest's, and pairs across folds were ranked by the fold. Ranks within a
    fold stay as they are.

    Args:
        raw: (N,) or (N, K) scores of test rows.
        known: (M,) or (M, K) out-of-fold scores of the training rows, made with the same choice.
        labels: (M,) of the training rows: 0 and 1, or K classes.
    """
    if raw.ndim == 2:
        columns = [to_one_scale(raw[:, k], known[:, k], labels == k) for k in range(raw.shape[1])]
        return np.stack(columns, axis=1)
    there = np.isfinite(known)
    classes = [known[there & (labels == value)] for value in (0, 1)]
    if min(len(values) for values in classes) == 0:
        return raw
    middle = float(np.mean([values.mean() for values in classes]))
    spread = float(np.sqrt(np.mean([values.var() for values in classes])))
    return np.asarray((raw - middle) / spread) if spread > 1e-12 else raw - middle


def numbers_to_one_scale(raw: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Numbers of a fold's model as standard deviations from the mean of what it says of its training rows.

    A correlation does not care about a model's scale, but folds that are held back differently have different ones; and
    a fold's mean is high where its test part's is low, since the two make up the whole. Pooled as they are, folds made
    of a true r of 0.50 one of 0.35 on average (60 subjects, `benchmarks/expected.py`).

    Args:
        raw: (N,) numbers of test rows.
        known: (M,) out-of-fold numbers of the training rows, made with the same choice.
    """
    spread = float(known.std())
    return np.asarray((raw - known.mean()) / spread) if spread > 0 else raw - known.mean()


@dataclass(frozen=True)
class Scored:
    """Scores of rows by models that never saw their subject.

    Attributes:
        scores: (N,), or (N, K) of several classes each against the rest, for ranking; above 0 where the class is
            likelier than the others if all are equally frequent. Of numbers: (N,), the numbers.
        probabilities: (N,) of the positive class or (N, K), with the training part's shares; NaN for numbers.
        chosen: what was chosen in each training part.
        ranked: (N,), of cross-validated numbers: the same on one scale in all folds (`numbers_to_one_scale`), for
            correlation; else None.
    """

    scores: np.ndarray
    probabilities: np.ndarray
    chosen: list[float]
    ranked: np.ndarray | None = field(default=None, kw_only=True)

    def among(self, rows: np.ndarray) -> Scored:
        """Of some of the rows."""
        ranked = None if self.ranked is None else self.ranked[rows]
        return Scored(self.scores[rows], self.probabilities[rows], self.chosen, ranked=ranked)


def cross_validate(
    protocol: Protocol,
    features: np.ndarray,
    labels: np.ndarray,
    subjects: np.ndarray,
    *,
    folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
    learned: Callable[[np.ndarray], np.ndarray] = lambda train: train,
) -> Scored:
    """Each row scored by models that never saw its subject, averaged over repeats; choices made in training parts.

    Classes' scores, and risks, of all folds are on one scale (`to_one_scale`).

    Args:
        protocol: how.
        features: (N, F), one row a scan.
        labels: (N,) of 0 and 1, of 0 to K - 1, or numbers.
        subjects: (N,); all rows of a subject are on one side.
        folds, repeats, seed: of the outer cross-validation.
        learned: rows of a training part to those that are learned from, where it is not all.
    """
    scores, probabilities, ranked = (np.zeros(_shape(protocol, len(labels))) for _ in range(3))
    chosen = []
    numbers = not (protocol.stratified or protocol.groups)
    seeds = [key(seed, "folds", repeat) % 2**32 for repeat in range(repeats)]
    with threadpool_limits(1):  # hundreds of small fits: threads would wait for each other most of the time
        for outer in seeds:
            split = folds_by_subject(labels, subjects, folds, outer, stratified=protocol.stratified)
            for fold, test in split:
                train = learned(fold)
                best, known = _search(protocol, features[train], labels[train], subjects[train], seed)
                chosen.append(best)
                raw = protocol.fit(features[train], labels[train], best)(features[test])
                own = raw
                if known is not None and (protocol.stratified or protocol.groups):
                    groups = protocol.groups(labels[train]) if protocol.groups else labels[train]
                    own = to_one_scale(raw, known, groups)
                ranked[test] += (
                    numbers_to_one_scale(raw, known) if numbers and known is not None else own
                ) / repeats
                scores[test] += own / repeats
                probabilities[test] += probability_of(raw, labels[train], protocol) / repeats
    return Scored(scores, probabilities, chosen, ranked=ranked if numbers else None)


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
            part = [(train, val)]
            best = max(
                protocol.candidates, key=lambda c: _out_of_fold(protocol, features, labels, part, c)[0]
            )
        else:
            best = choose(protocol, features[fitted], labels[fitted], subjects[fitted], seed)
        raw = protocol.fit(features[fitted], labels[fitted], best)(features)
    return Scored(raw, probability_of(raw, labels[fitted], protocol), [best])


def probability_of(scores: np.ndarray, labels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Log-odds for equally frequent classes to probabilities with the classes' shares among `labels`; NaN for numbers.

    (N,) to (N,) of the positive class; (N, K) against the rest to (N, K), whose rows add up to 1.
    """
    if not protocol.stratified:
        return np.full(len(scores), np.nan)
    if scores.ndim == 2:
        shares = np.array([float((labels == k).mean()) for k in range(scores.shape[1])])
        weighted = expit(scores) * shares
        return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))
    share = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    return np.asarray(expit(scores + math.log(share / (1 - share))))
