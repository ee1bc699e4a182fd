"""Classes told from the nearest subjects, by cosine; their number is chosen as any penalty is."""

from __future__ import annotations

import functools

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from mdae.evaluation.probing.estimators import Predictor, Protocol, area
from mdae.evaluation.probing.multiclass import NEVER, against_rest, macro_area

NUMBERS = (25, 15, 9, 5, 3, 1)


def neighbours(num_classes: int) -> Protocol:
    """The protocol for two classes, whose scores are the later one's log-odds, or for several, 0 to num_classes - 1."""
    fit = functools.partial(_neighbours, num_classes)
    if num_classes == 2:
        return Protocol("knn", NUMBERS, lambda *about: _of_two(fit(*about)), area)
    return Protocol("knn", NUMBERS, fit, macro_area, columns=num_classes)


def _of_two(predictor: Predictor) -> Predictor:
    return lambda x: predictor(x)[:, 1]


def _neighbours(num_classes: int, features: np.ndarray, labels: np.ndarray, number: float) -> Predictor:
    """Each class's log-odds against the rest (N, K) among the nearest subjects, all classes being equally frequent.

    One is added to every class's count, which is what keeps the odds of a class without a neighbour finite.
    """
    scaler = StandardScaler().fit(features)
    search = NearestNeighbors(n_neighbors=min(int(number), len(labels)), metric="cosine")
    search.fit(scaler.transform(features))
    own = labels[:, None] == np.arange(num_classes)
    shares = own.mean(axis=0)
    there = shares > 0

    def score(x: np.ndarray) -> np.ndarray:
        _, nearest = search.kneighbors(scaler.transform(x))
        counts = own[nearest].sum(axis=1)[:, there] / shares[there]
        scores = np.full((len(x), num_classes), NEVER)
        scores[:, there] = against_rest(np.log(counts + 1))
        return scores

    return score


KNN = neighbours(2)
