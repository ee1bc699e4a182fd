"""Several classes told from frozen features: multinomial logistic regression, each class scored against the rest."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from mdae.evaluation.probing.estimators import LINEAR, Linear, Predictor, Protocol, logistic_model
from mdae.evaluation.statistics.intervals import weighted_auroc

NEVER = -30.0  # log-odds of a class that a training part has nobody of


def multiclass(number: int) -> Protocol:
    """The linear protocol for that many classes, 0 to number - 1.

    Its predictors score (N, K): each class's log-odds against the rest, all classes being equally frequent. Quality is
    the mean one-against-rest AUROC.
    """
    fit = functools.partial(_multinomial, number)
    return Protocol("linear", LINEAR.candidates, fit, macro_area, columns=number)


def against_rest(logits: np.ndarray) -> np.ndarray:
    """Logits (N, K) of a softmax to each class's log-odds against all others, (N, K)."""
    others = np.stack([logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])])
    return np.asarray(logits - others.T)


@dataclass(frozen=True)
class Multinomial:
    """Lines whose softmax tells classes apart.

    Attributes:
        lines: the logit of each class that there was somebody of.
        classes: (P,) which these are.
        number: K, of all classes.
    """

    lines: Linear
    classes: np.ndarray
    number: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features (N, F) to each class's log-odds against the rest, (N, K)."""
        scores = np.full((len(x), self.number), NEVER)
        scores[:, self.classes] = against_rest(self.lines(x))
        return scores


def _multinomial(number: int, features: np.ndarray, labels: np.ndarray, strength: float) -> Multinomial:
    """Standardisation and L2 multinomial regression; classes weigh the same, as in the protocol of two."""
    model = logistic_model(strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ranks have long settled by then
        lines = Linear.of(model.fit(features, labels))
    if len(lines.weights) == 1:  # two classes alone are there: scikit-learn gives the later one's log-odds
        weights, biases = (np.concatenate([np.zeros_like(own), own]) for own in (lines.weights, lines.biases))
        lines = replace(lines, weights=weights, biases=biases)
    return Multinomial(lines, model.classes_.astype(int), number)


def lines_of(predictor: Predictor) -> Predictor:
    """What is linear of a linear model: of several classes, their logits."""
    return predictor.lines if isinstance(predictor, Multinomial) else predictor


def macro_area(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean over classes of the AUROC against the rest; of those that the rows hold, with others beside them."""
    whole = np.ones((1, len(labels)))
    areas = [
        float(weighted_auroc((labels == k).astype(int), scores[:, k], whole)[0])
        for k in range(scores.shape[1])
        if 0 < int((labels == k).sum()) < len(labels)
    ]
    return float(np.mean(areas)) if areas else 0.5
