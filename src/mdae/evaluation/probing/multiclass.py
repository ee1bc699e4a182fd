"""Several classes told from frozen features: multinomial logistic regression, each class scored against the rest."""

from __future__ import annotations

import functools
import warnings

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdae.evaluation.probing.estimators import LINEAR, Predictor, Protocol
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


def _multinomial(number: int, features: np.ndarray, labels: np.ndarray, strength: float) -> Predictor:
    """Standardisation and L2 multinomial regression; classes weigh the same, as in the protocol of two."""
    logistic = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
    model = make_pipeline(StandardScaler(), logistic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ranks have long settled by then
        model.fit(features, labels)
    present = model.classes_.astype(int)

    def score(x: np.ndarray) -> np.ndarray:
        logits = np.asarray(model.decision_function(x))
        if logits.ndim == 1:  # two classes alone are there: scikit-learn gives the later one's log-odds
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        scores = np.full((len(x), number), NEVER)
        scores[:, present] = against_rest(logits)
        return scores

    return score


def macro_area(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean over classes of the AUROC against the rest; of those that the rows hold, with others beside them."""
    whole = np.ones((1, len(labels)))
    areas = [
        float(weighted_auroc((labels == k).astype(int), scores[:, k], whole)[0])
        for k in range(scores.shape[1])
        if 0 < int((labels == k).sum()) < len(labels)
    ]
    return float(np.mean(areas)) if areas else 0.5
