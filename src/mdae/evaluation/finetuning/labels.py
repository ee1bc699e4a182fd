"""Labels as a network learns them: two classes, several, or a number; and what its outputs say of them.

Two classes have one output, the log-odds of the later one; K > 2 have the logits of a softmax. Both are one softmax in
the formulas here, of two logits of which the first is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from torch import Tensor

from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.probing import estimators
from mdae.evaluation.probing.cross_validation import probability_of
from mdae.evaluation.probing.multiclass import against_rest
from mdae.evaluation.probing.targets import linear_protocol

CERTAIN = 1e-3  # a probability of a few hundred subjects is no further from 0 or 1


class Labels(Protocol):
    """What is learned, of a training part."""

    @property
    def probe(self) -> estimators.Protocol:
        """What the head starts as."""

    @property
    def offset(self) -> np.ndarray:
        """What the outputs (K,) say of a scan that tells nothing, if the labels are learned as they are drawn."""

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Labels (N,) as they are learned, (N,)."""

    def draw(self, targets: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The rows of one epoch in order."""

    def losses(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """The loss (B,) of each row."""

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """How much each row (N,) counts in the validation loss."""

    def quality(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        """What the best epoch is chosen by; larger is better."""

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs as `Scored.scores` has them."""

    def probabilities(self, outputs: np.ndarray, known: np.ndarray, *, smoothed: bool) -> np.ndarray:
        """Outputs as `Scored.probabilities` has them, with the classes' shares among the labels `known`.

        Args:
            smoothed: whether the outputs were learned from smoothed labels.
        """


@dataclass(frozen=True)
class Classes:
    """Two classes or several.

    Attributes:
        number: K.
        shares: (K,) of the training part.
        options: label smoothing, and whether classes are drawn equally often.
    """

    number: int
    shares: np.ndarray
    options: FinetuneOptions

    @property
    def probe(self) -> estimators.Protocol:
        """Logistic regression, multinomial of several."""
        return linear_protocol(self.number)

    @property
    def drawn(self) -> np.ndarray:
        """(K,) how often each class is drawn."""
        return np.full(self.number, 1 / self.number) if self.options.balanced else self.shares

    @property
    def offset(self) -> np.ndarray:
        """Of the shares as they are drawn and smoothed; 0 where those are equal."""
        smoothing = self.options.label_smoothing
        said = np.log(self.drawn * (1 - smoothing) + smoothing / self.number)
        relative = said - said[0]
        return np.asarray(relative[1:] if self.number == 2 else relative)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """The same, whole numbers."""
        return labels.astype(np.int64)

    def draw(self, targets: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """In turns of the classes, or as they are (`draw_rows`)."""
        return draw_rows(targets, rows, self.options.balanced, generator)

    def losses(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """Cross-entropy with smoothed labels."""
        logits = outputs
        if outputs.ndim == 1:
            logits = torch.stack([torch.zeros_like(outputs), outputs], dim=1)
        true = torch.from_numpy(targets).to(outputs.device)
        smoothing = self.options.label_smoothing
        return F.cross_entropy(logits, true, label_smoothing=smoothing, reduction="none")

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """Classes weigh the same if they are drawn so."""
        counts = np.bincount(targets, minlength=self.number).clip(1)
        return np.asarray(1 / counts[targets] if self.options.balanced else np.ones(len(targets)))

    def quality(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        """AUROC; of several classes, the mean of each against the rest."""
        return self.probe.quality(targets, self._against(_logits(outputs)))

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """As if all classes were equally frequent."""
        return self._against(_logits(outputs - self.offset))

    def probabilities(self, outputs: np.ndarray, known: np.ndarray, *, smoothed: bool) -> np.ndarray:
        """Without what smoothing took from them, and set from the drawn shares to those that are known."""
        if not smoothed:
            return probability_of(self.scores(outputs), known, self.probe)
        said = unsmoothed(_logits(outputs), self.options.label_smoothing) - np.log(self.drawn)
        return probability_of(self._against(said), known, self.probe)

    def _against(self, logits: np.ndarray) -> np.ndarray:
        """Logits (N, K) to the later class's log-odds (N,) of two, else to each one's against the rest (N, K)."""
        scores = against_rest(logits)
        return scores[:, 1] if self.number == 2 else scores


@dataclass(frozen=True)
class Numbers:
    """Numbers, standardised by the training part.

    Attributes:
        centre, spread: its mean and standard deviation.
    """

    centre: float
    spread: float

    probe = estimators.RIDGE
    offset = np.zeros(1)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Standardised."""
        return np.asarray((labels - self.centre) / self.spread)

    def draw(self, targets: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Each once."""
        return draw_rows(targets, rows, False, generator)

    def losses(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """Huber's, which a wrong age sways less than its square would."""
        return F.smooth_l1_loss(outputs, torch.from_numpy(targets).to(outputs), reduction="none")

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """All the same."""
        return np.ones(len(targets))

    def quality(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        """Minus the mean absolute error."""
        return self.probe.quality(targets, outputs)

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """In the labels' own unit."""
        return np.asarray(outputs * self.spread + self.centre)

    def probabilities(self, outputs: np.ndarray, known: np.ndarray, *, smoothed: bool) -> np.ndarray:
        """None: NaN."""
        return np.full(len(outputs), np.nan)


def labels_of(labels: np.ndarray, num_classes: int, options: FinetuneOptions) -> Labels:
    """The labels (N,) of a training part as they are learned; `num_classes` 0 for numbers."""
    if num_classes:
        shares = np.bincount(labels.astype(np.int64), minlength=num_classes) / len(labels)
        return Classes(num_classes, shares, options)
    return Numbers(float(labels.mean()), float(labels.std()) or 1.0)


def _logits(outputs: np.ndarray) -> np.ndarray:
    """Outputs (N,) of two classes, or (N, K), as logits of a softmax, (N, K)."""
    return np.stack([np.zeros_like(outputs), outputs], axis=1) if outputs.ndim == 1 else outputs


def unsmoothed(logits: np.ndarray, smoothing: float) -> np.ndarray:
    """What logits (N, K) that were learned from smoothed labels say of the labels themselves, as logs of probabilities.

    A network that knows the answer says 1 - smoothing (1 - 1 / K); taken as a probability that would count as doubt, in
    the Brier score and in the calibration. What lies beyond is as good as certain.
    """
    said = (softmax(logits, axis=1) - smoothing / logits.shape[1]) / (1 - smoothing)
    return np.asarray(log_softmax(np.log(said.clip(CERTAIN, 1 - CERTAIN)), axis=1))


def draw_rows(
    targets: np.ndarray, rows: np.ndarray, balanced: bool, generator: np.random.Generator
) -> np.ndarray:
    """The rows of one epoch in order.

    Balanced, classes take turns, so that a batch holds as many of one as of another where its size allows: an equal
    number of draws of each, as few as give as many as there are rows, and every row of a class equally often but for
    one.

    Args:
        targets: (N,) of classes; of numbers, if not balanced.
        rows: to draw from; balanced, they hold every class.
        balanced: whether classes are drawn equally often.
        generator: of the order.
    """
    if not balanced:
        return generator.permutation(rows)
    classes = np.unique(targets[rows])
    each = math.ceil(len(rows) / len(classes))
    turns = []
    for value in classes:
        members = rows[targets[rows] == value]
        rounds = math.ceil(each / len(members))
        turns.append(np.concatenate([generator.permutation(members) for _ in range(rounds)])[:each])
    return np.stack(turns, axis=1).ravel()
