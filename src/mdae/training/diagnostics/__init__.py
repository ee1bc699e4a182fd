"""What looks at a run besides its loss: one small file each, which the loop knows by this interface alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mdae.training.held_out import HeldOut
from mdae.training.launch import World
from mdae.training.run import Run
from mdae.training.step import Learner


@dataclass(frozen=True)
class Moment:
    """A run when it is looked at.

    Attributes:
        step: optimiser steps made so far.
        run: its data and settings.
        learner: the objective; for as long as it is looked at, its weights are their moving average.
        held_out: the held-out volumes, and the objective's output on them.
        world: the processes.
    """

    step: int
    run: Run
    learner: Learner
    held_out: HeldOut
    world: World


class Diagnostic(Protocol):
    """Numbers about a run, taken at every validation.

    Attributes:
        table: the name of their table, a file of the run's folder and a group in TensorBoard.
    """

    table: str

    def look(self, moment: Moment) -> Mapping[str, float]:
        """The next row; nothing for none.

        It is called on every process, so that the work can be dealt; what the lead returns is written. Whatever is
        random in it takes generators of its own: it must leave no trace in the run.
        """
