"""How frozen features are judged: a model with one thing to choose, chosen within the training part alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mdae.evaluation.statistics.intervals import weighted_auroc

Predictor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Linear:
    """A line a class, or one alone, on standardised features: what a linear model comes to, without its library.

    Attributes:
        mean, scale: (F,), that standardise a feature.
        weights: (K, F).
        biases: (K,).
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    @classmethod
    def of(cls, model: Pipeline) -> Linear:
        """What a fitted pipeline of `StandardScaler` and a linear model computes."""
        scaler, line = model[0], model[-1]
        return cls(
            scaler.mean_,
            scaler.scale_,
            np.atleast_2d(line.coef_),
            np.atleast_1d(line.intercept_).astype(float),
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features (N, F) to scores, (N,) of one line and (N, K) of several."""
        scores = ((x - self.mean) / self.scale) @ self.weights.T + self.biases
        return np.asarray(scores[:, 0] if len(self.weights) == 1 else scores)


@dataclass(frozen=True)
class Protocol:
    """A way to judge features.

    Attributes:
        candidates: the values of what is chosen, the simplest model first: it is taken where several do as well.
        fit: features (N, F), labels (N,) and a candidate to a function of features that scores: log-odds for two
            equally frequent classes (of several: (N, K), each against the rest), or the number itself.
        quality: labels and scores to a number that is larger for the better.
        stratified: whether folds keep the classes' shares.
        columns: number of scores a row: one, or of several classes one a class.
        groups: labels to two groups that a risk tells apart, by which folds are brought to one scale; None where the
            labels are classes already, or numbers, which are on one scale.
    """

    name: str
    candidates: tuple[float, ...]
    fit: Callable[[np.ndarray, np.ndarray, float], Predictor]
    quality: Callable[[np.ndarray, np.ndarray], float]
    stratified: bool = True
    columns: int = 1
    groups: Callable[[np.ndarray], np.ndarray] | None = None


def logistic_model(strength: float) -> Pipeline:
    """Standardisation and L2 logistic regression, not yet fitted; classes weigh the same.

    Else a fold's intercept follows its class mix, which is the opposite of the test part's, and scores of several folds
    together would fall below chance where there is nothing to find.
    """
    logistic = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
    return make_pipeline(StandardScaler(), logistic)


def ridge_model(strength: float) -> Pipeline:
    """Standardisation and ridge regression, not yet fitted."""
    return make_pipeline(StandardScaler(), Ridge(alpha=1 / strength))


def _logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Linear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ranks have long settled by then
        return Linear.of(logistic_model(strength).fit(features, labels))


def _ridge(features: np.ndarray, labels: np.ndarray, strength: float) -> Linear:
    return Linear.of(ridge_model(strength).fit(features, labels))


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    """The AUROC of scores (N,) of labels (N,) of 0 and 1; a half where they hold one class alone."""
    if len(np.unique(labels)) < 2:
        return 0.5
    return float(weighted_auroc(labels, scores, np.ones((1, len(labels))))[0])


def _less_error(labels: np.ndarray, scores: np.ndarray) -> float:
    return -float(np.abs(labels - scores).mean())


LINEAR = Protocol("linear", (1e-4, 1e-3, 1e-2, 1e-1, 1.0), _logistic, area)
RIDGE = Protocol("linear", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), _ridge, _less_error, stratified=False)
