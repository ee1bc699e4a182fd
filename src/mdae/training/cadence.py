"""When a run looks, saves and logs: after so many steps or so many minutes, and on all its processes at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdae.errors import ConfigError

if TYPE_CHECKING:
    from mdae.training.launch import World

TALK_EVERY_S = 2.0  # between two words of the processes: how late a signal or a minute may be noticed
MOST_STEPS = 100  # between them, however short these are


@dataclass(frozen=True)
class Cadence:
    """How often: every so many steps, or every so many minutes; never if both are 0."""

    steps: int = 0
    minutes: float = 0.0

    @property
    def never(self) -> bool:
        return not self.steps and not self.minutes


def read_cadence(given: int | str, name: str) -> Cadence:
    """What is given of an option: 200 for steps, "10min" or "0.5h" for time, 0 for never.

    Raises:
        ConfigError: anything else.
    """
    text = str(given).strip().lower()
    try:
        for unit, minutes in (("min", 1.0), ("h", 60.0), ("s", 1 / 60)):
            if text.endswith(unit):
                found = Cadence(minutes=float(text.removesuffix(unit)) * minutes)
                if not 0 < found.minutes < float("inf"):
                    raise ValueError
                return found
        found = Cadence(steps=int(text))
        if found.steps < 0:
            raise ValueError
        return found
    except ValueError as error:
        raise ConfigError(
            f"{name} is {given!r}", mend="give steps, as in 200, or a time, as in 10min; 0 for never"
        ) from error


class Clock:
    """Says what is due after each step, the same on every process of a run.

    Steps are known to all. Time is the lead's, and a signal may have reached one process alone: of these the processes
    tell each other every few seconds, because it costs a wait for the device.

    Args:
        cadences: by what is due.
        last: the last step, after which all of them are due that ever are.
        world: the processes.
    """

    def __init__(self, cadences: Mapping[str, Cadence], last: int, world: World) -> None:
        self.cadences, self.last, self.world = dict(cadences), last, world
        self.timed = [name for name, cadence in self.cadences.items() if cadence.minutes]
        now = time.monotonic()
        self.done = dict.fromkeys(self.timed, now)
        self.talked_at, self.talked_after, self.talk_after = now, -1, -1

    def after(self, step: int, *, stop: bool) -> set[str]:
        """What is due after a step; "stop" among it if any process was asked to."""
        due = {name for name, cadence in self.cadences.items() if cadence.steps and step % cadence.steps == 0}
        if step == self.last:
            due |= {name for name, cadence in self.cadences.items() if not cadence.never}
        elif self.world.size == 1 or step >= self.talk_after:
            due |= self._told(step, stop)
        for name in due & self.done.keys():
            self.done[name] = time.monotonic()
        return due

    def _told(self, step: int, stop: bool) -> set[str]:
        """What the lead's clock says is due, and whether any process was asked to stop."""
        now = time.monotonic()
        over = [now - self.done[name] >= 60 * self.cadences[name].minutes for name in self.timed]
        said = [int(stop), self._pause(step, now), *map(int, over)]
        if not self.world.lead:
            said[1:] = [0] * (len(said) - 1)
        stopped, pause, *due = self.world.largest(said)
        self.talked_at, self.talked_after, self.talk_after = now, step, step + pause
        found = {name for name, flag in zip(self.timed, due, strict=True) if flag}
        return found | ({"stop"} if stopped else set())

    def _pause(self, step: int, now: float) -> int:
        """Steps to the next word, by how long the last ones took."""
        steps = step - self.talked_after if self.talked_after >= 0 else 1
        seconds = max(1e-6, (now - self.talked_at) / max(1, steps))
        return max(1, min(MOST_STEPS, int(TALK_EVERY_S / seconds)))
