"""Risks from frozen features: Cox's proportional hazards with a ridge, chosen as any other penalty is.

A label is a time, negative where the subject was lost before the event was seen.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from mdae.evaluation.probing.estimators import Linear, Protocol
from mdae.evaluation.statistics.survival import concordance


def fit_cox(features: np.ndarray, times: np.ndarray, strength: float) -> Linear:
    """Log hazards relative to the average subject, linear in standardised features.

    The penalised partial likelihood (Cox 1972; ties as Breslow 1974): the mean over events plus |w|^2 / (2 C n), as
    scikit-learn weighs its logistic regression. It is solved in the span of the subjects, who are fewer than features.

    Args:
        features: (N, F).
        times: (N,), negative where lost.
        strength: C.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    order = np.argsort(-np.abs(times), kind="stable")  # the risk set of a time is all before it in this order
    x, t = ((features - mean) / scale)[order], times[order]
    u, singular, axes = np.linalg.svd(x, full_matrices=False)
    inner = u * singular
    last = np.searchsorted(-np.abs(t), -np.abs(t), side="right") - 1  # of those of the same time
    found = minimize(
        _loss, np.zeros(inner.shape[1]), args=(inner, t > 0, last, strength), jac=True, method="L-BFGS-B"
    )
    return Linear(mean, scale, (found.x @ axes)[None], np.zeros(1))


def _loss(
    w: np.ndarray, x: np.ndarray, seen: np.ndarray, last: np.ndarray, strength: float
) -> tuple[float, np.ndarray]:
    """The penalised negative log partial likelihood, over the number of rows, and its gradient."""
    odds = x @ w
    total = np.logaddexp.accumulate(odds)[last][seen]  # log of the risk sets' hazards, one an event
    within = np.arange(len(x))[:, None] <= last[seen]  # (N, events)
    shares = np.exp(np.where(within, odds[:, None] - total, -np.inf))
    number = len(x)
    loss = (total.sum() - odds[seen].sum()) / number + w @ w / (2 * strength * number)
    gradient = (shares.sum(axis=1) @ x - x[seen].sum(axis=0)) / number + w / (strength * number)
    return float(loss), gradient


def baseline_hazard(times: np.ndarray, risks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Breslow's cumulative hazard of a subject of log hazard 0: times of events, ascending, and the sum up to each."""
    ends = np.unique(times[times > 0])
    at_risk = np.array([logsumexp(risks[np.abs(times) >= end]) for end in ends])
    events = np.array([(times == end).sum() for end in ends])
    return ends, np.cumsum(events * np.exp(-at_risk))


def _agreement(times: np.ndarray, risks: np.ndarray) -> float:
    found = float(concordance(times, risks, np.ones((1, len(times))))[0])
    return found if np.isfinite(found) else 0.5


def _early(times: np.ndarray) -> np.ndarray:
    """1 for the half of the times that ended first."""
    return np.asarray(np.abs(times) <= np.median(np.abs(times)), dtype=int)


COX = Protocol("linear", (1e-4, 1e-3, 1e-2, 1e-1, 1.0), fit_cox, _agreement, stratified=False, groups=_early)
