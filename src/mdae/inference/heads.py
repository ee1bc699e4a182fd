"""What is fitted on features, as plain arrays: classes with probabilities, numbers with ranges, risks.

Each head is fitted with the penalty that was chosen, and says what subjects whom it never saw would hear of it: cross-
fitted scores calibrate its probabilities, and give the ranges of its numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from mdae.evaluation.probing.estimators import Linear, logistic_model, ridge_model
from mdae.evaluation.probing.survival import baseline_hazard, fit_cox

Row = dict[str, Any]
Splits = Sequence[tuple[np.ndarray, np.ndarray]]
Tensors = Mapping[str, np.ndarray]
COVERED = 0.95  # of new subjects by the range of a number


class Head(Protocol):
    """Features (N, F) to N rows of a table; kept as tensors and a JSON-able record."""

    @property
    def line(self) -> Linear:
        """What scores."""

    def rows(self, features: np.ndarray) -> list[Row]:
        """What is said of each scan."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name."""

    def about(self) -> Row:
        """What is no array."""


def _of_line(line: Linear) -> dict[str, np.ndarray]:
    return {f"head.{name}": getattr(line, name) for name in ("mean", "scale", "weights", "biases")}


def _line(tensors: Tensors) -> Linear:
    return Linear(**{name: tensors[f"head.{name}"] for name in ("mean", "scale", "weights", "biases")})


@dataclass(frozen=True)
class Classifier:
    """Classes by logistic regression, with probabilities by Platt's sigmoid on cross-fitted scores (Platt 1999).

    Attributes:
        line: a line of the later of two classes, or one a class; classes weigh the same in it.
        slopes, offsets: of the sigmoids of its scores; of several classes, these are divided by their sum.
        classes: their names, as many as there are probabilities.
    """

    kind: ClassVar[str] = "classification"
    line: Linear
    slopes: np.ndarray
    offsets: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def fit(
        cls, features: np.ndarray, labels: np.ndarray, chosen: float, splits: Splits, classes: tuple[str, ...]
    ) -> Classifier:
        """From features (N, F), labels (N,) of 0 to K - 1, the chosen strength, and folds by subject.

        The folds' models are held back as much for each row as the last one is: with scikit-learn's C, which is for the
        sum over rows, they would be held back more, their scores be smaller, and probabilities too sure.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as in the protocol
            line = Linear.of(logistic_model(chosen).fit(features, labels))
            scores = np.zeros((len(labels), len(line.weights)))
            for train, test in splits:
                strength = chosen * len(labels) / len(train)
                part = Linear.of(logistic_model(strength).fit(features[train], labels[train]))
                scores[test] = part(features[test]).reshape(len(test), -1)
        later = [1] if len(classes) == 2 else range(len(classes))
        fitted = [platt(own, labels == value) for own, value in zip(scores.T, later, strict=True)]
        slopes, offsets = (np.array(values) for values in zip(*fitted, strict=True))
        return cls(line, slopes, offsets, classes)

    @property
    def threshold(self) -> float | None:
        """The probability of the later of two classes from which on it is called: both classes weigh the same."""
        return float(expit(self.offsets[0])) if len(self.classes) == 2 else None

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, K), calibrated; rows add up to 1."""
        scores = self.line(features).reshape(len(features), -1)
        own = expit(scores * self.slopes + self.offsets)
        if len(self.classes) == 2:
            return np.concatenate([1 - own, own], axis=1)
        return np.asarray(own / own.sum(axis=1, keepdims=True).clip(1e-300))

    def rows(self, features: np.ndarray) -> list[Row]:
        scores = self.line(features)
        called = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        columns = [f"probability_{name}" for name in self.classes]
        return [
            {"class": self.classes[index], **dict(zip(columns, own, strict=True))}
            for index, own in zip(called, self.probabilities(features).tolist(), strict=True)
        ]

    def tensors(self) -> dict[str, np.ndarray]:
        return {**_of_line(self.line), "head.slopes": self.slopes, "head.offsets": self.offsets}

    def about(self) -> Row:
        return {"classes": list(self.classes), "threshold": self.threshold}

    @classmethod
    def read(cls, tensors: Tensors, about: Row) -> Classifier:
        names = tuple(str(name) for name in about["classes"])
        return cls(_line(tensors), tensors["head.slopes"], tensors["head.offsets"], names)


@dataclass(frozen=True)
class Regressor:
    """Numbers by ridge regression, with the range that holds 95 % of cross-fitted ones.

    Attributes:
        line: one.
        arm: half the range's length, a quantile of the cross-fitted absolute errors (split conformal prediction).
    """

    kind: ClassVar[str] = "regression"
    line: Linear
    arm: float

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, chosen: float, splits: Splits) -> Regressor:
        """From features (N, F), labels (N,), the chosen strength, and folds by subject."""
        model = ridge_model(chosen)
        errors = np.abs(labels - cross_val_predict(model, features, labels, cv=splits))
        share = min(1.0, COVERED * (len(errors) + 1) / len(errors))
        return cls(Linear.of(model.fit(features, labels)), float(np.quantile(errors, share, method="higher")))

    def rows(self, features: np.ndarray) -> list[Row]:
        said = self.line(features).tolist()
        return [{"prediction": one, "low": one - self.arm, "high": one + self.arm} for one in said]

    def tensors(self) -> dict[str, np.ndarray]:
        return {**_of_line(self.line), "head.arm": np.array([self.arm])}

    def about(self) -> Row:
        return {"range": COVERED}

    @classmethod
    def read(cls, tensors: Tensors, about: Row) -> Regressor:
        return cls(_line(tensors), float(tensors["head.arm"][0]))


@dataclass(frozen=True)
class Survival:
    """Hazards by Cox's regression.

    Attributes:
        line: log hazards relative to the average subject.
        times, hazard: (T,), Breslow's cumulative hazard of that subject.
        horizon: the median time of those who were fitted on, by which the chance of no event is told.
    """

    kind: ClassVar[str] = "survival"
    line: Linear
    times: np.ndarray
    hazard: np.ndarray
    horizon: float

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, chosen: float, splits: Splits) -> Survival:
        """From features (N, F), labels (N,), negative where lost, and the chosen strength."""
        line = fit_cox(features, labels, chosen)
        return cls(line, *baseline_hazard(labels, line(features)), float(np.median(np.abs(labels))))

    def rows(self, features: np.ndarray) -> list[Row]:
        log_hazards = self.line(features)
        passed = int(np.searchsorted(self.times, self.horizon, side="right"))
        until = float(self.hazard[passed - 1]) if passed else 0.0
        survived = np.exp(-until * np.exp(log_hazards))
        column = f"survival_at_{self.horizon:g}"
        return [
            {"risk": risk, column: share}
            for risk, share in zip(np.exp(log_hazards).tolist(), survived.tolist(), strict=True)
        ]

    def tensors(self) -> dict[str, np.ndarray]:
        return {**_of_line(self.line), "head.times": self.times, "head.hazard": self.hazard}

    def about(self) -> Row:
        return {"horizon": self.horizon}

    @classmethod
    def read(cls, tensors: Tensors, about: Row) -> Survival:
        return cls(_line(tensors), tensors["head.times"], tensors["head.hazard"], float(about["horizon"]))


def platt(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the sigmoid that makes scores (N,) probabilities of what is positive (N,) (Platt 1999).

    Its targets are a little within 0 and 1, as if each class had one row more, of the other label half.
    """
    number, others = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (number + 1) / (number + 2), 1 / (others + 2))
    rows, labels = np.concatenate([scores, scores])[:, None], np.repeat([1, 0], len(scores))
    spread = float(scores.std()) or 1.0
    sigmoid = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    sigmoid.fit(rows / spread, labels, sample_weight=np.concatenate([target, 1 - target]))
    return float(sigmoid.coef_[0, 0]) / spread, float(sigmoid.intercept_[0])


HEADS: dict[str, type[Classifier | Regressor | Survival]] = {
    head.kind: head for head in (Classifier, Regressor, Survival)
}
