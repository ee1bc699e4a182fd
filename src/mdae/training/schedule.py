"""The learning rate as a pure function of the step: warm-up, then a cosine, or hold and decay; and legs that go on.

A run is one leg, or several if it was extended. WSD (warm-up, stable, decay): Hu et al., "MiniCPM", 2024; Hägele et
al., "Scaling laws and compute-optimal training beyond fixed training durations", NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdae.training.optimiser import learning_rate

if TYPE_CHECKING:
    from mdae.training.config import PretrainConfig


@dataclass(frozen=True)
class Leg:
    """A rise of the learning rate, and its fall.

    Attributes:
        first: the step that it begins with, from 0.
        steps: of it.
        peak: learning rate.
        warmup: steps over which it rises linearly.
        decay: the last steps, over which it falls linearly to 0; 0 for a cosine from the end of the warm-up on.
    """

    first: int
    steps: int
    peak: float
    warmup: int
    decay: int = 0

    @property
    def last(self) -> int:
        """The step after it."""
        return self.first + self.steps

    @property
    def decays_from(self) -> int:
        """The step from which the rate depends on where the leg ends."""
        return self.last - self.decay if self.decay else self.first + self.warmup

    def rate(self, step: int) -> float:
        """The learning rate of a step of the run, from 0."""
        own = step - self.first
        if not self.decay:
            return learning_rate(own, peak=self.peak, warmup_steps=self.warmup, total_steps=self.steps)
        if own < self.warmup:
            return self.peak * (own + 1) / self.warmup
        return self.peak * min(1.0, (self.steps - own) / self.decay)


def legs_of(config: PretrainConfig) -> list[Leg]:
    """The legs of a run.

    A run that holds its rate only holds it longer when it is extended at the same rate, as if it had been planned so;
    any other extension rises and falls once more, after the same share of steps.
    """
    held = config.schedule == "wsd"
    lengths: list[tuple[int, float]] = [(config.steps, config.lr)]
    own = config.extend_lr or (0.0,) * len(config.extend)
    for steps, given in zip(config.extend, own, strict=True):
        (before, peak), lr = lengths[-1], given or config.lr
        if held and lr == peak:
            lengths[-1] = before + steps, peak
        else:
            lengths.append((steps, lr))
    legs: list[Leg] = []
    for index, (steps, peak) in enumerate(lengths):
        warmup = round(config.warmup * (config.steps if index == 0 else steps))
        decay = max(1, min(steps - warmup, round(config.decay * steps))) if held else 0
        legs.append(Leg(legs[-1].last if legs else 0, steps, peak, warmup, decay))
    return legs


def rate_at(legs: Sequence[Leg], step: int) -> float:
    """The learning rate of a step of the run, from 0."""
    return next(leg for leg in legs if step < leg.last).rate(step)


def agree(before: Sequence[Leg], now: Sequence[Leg], step: int) -> bool:
    """Whether the steps before `step` had the same rates under both."""
    if step > min(before[-1].last, now[-1].last):
        return False
    for one, other in zip(before, now, strict=False):
        if one.first >= step:
            break
        ends = one.steps, one.decay
        if (one.first, one.peak, one.warmup) != (other.first, other.peak, other.warmup):
            return False
        if ends != (other.steps, other.decay) and step > min(one.decays_from, other.decays_from):
            return False
    return True


def held_until(legs: Sequence[Leg]) -> set[int]:
    """The steps after which rates begin to fall for good: a checkpoint of them is kept, to hold on from there."""
    return {leg.decays_from for leg in legs if leg.decay}
