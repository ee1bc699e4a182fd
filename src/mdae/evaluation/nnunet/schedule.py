"""The learning rate of every epoch, and when the encoder is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from mdae.evaluation.nnunet.config import Schedule

EXPONENT = 0.9  # of nnU-Net's polynomial decay


@dataclass(frozen=True)
class LearningRate:
    """What each epoch trains, and how fast.

    Attributes:
        schedule: full, warmup or frozen.
        epochs: of the training.
        peak: the highest learning rate.
        warmup: share of the epochs of each of the two rises of `warmup`.
    """

    schedule: Schedule
    epochs: int
    peak: float
    warmup: float

    @property
    def rise(self) -> int:
        """Epochs of one rise: the decoder's alone, then everything's."""
        if self.schedule != "warmup":
            return 0
        return max(1, min(round(self.warmup * self.epochs), (self.epochs - 1) // 2))

    def encoder_trains(self, epoch: int) -> bool:
        """Whether the encoder's weights move in an epoch, counted from 0."""
        return self.schedule != "frozen" and epoch >= self.rise

    def at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: two linear rises if any, then nnU-Net's decay."""
        if epoch < 2 * self.rise:
            return self.peak * ((epoch % self.rise + 1) / self.rise)
        done = (epoch - 2 * self.rise) / (self.epochs - 2 * self.rise)
        return float(self.peak * (1 - done) ** EXPONENT)


class EpochScheduler:
    """Sets an optimiser's learning rate at the start of an epoch, as nnU-Net's trainer asks it to."""

    def __init__(self, optimizer: Optimizer, rate: LearningRate) -> None:
        self.optimizer, self.rate = optimizer, rate

    def step(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate.at(epoch)
