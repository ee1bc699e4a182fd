"""Whether a figure still rises, as its table tells it: what a resumed run goes on with."""

from __future__ import annotations

import csv
from pathlib import Path

PATIENCE = 5  # looks without a rise, after which it is said
NOTICED = 0.1  # of its interval's length: what is less is chance


class Rising:
    """A figure's history.

    Args:
        figure: the name of its column; its interval is in `low` and `high`.
    """

    def __init__(self, figure: str) -> None:
        self.figure = figure
        self.best, self.best_step, self.since = float("-inf"), 0, 0

    def take_up(self, table: Path, step: int) -> None:
        """Read what was found before a step."""
        self.__init__(self.figure)  # type: ignore[misc]
        if not table.exists():
            return
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if int(row["step"]) < step:
                    self.add(int(row["step"]), *(float(row[name]) for name in (self.figure, "low", "high")))

    def add(self, step: int, value: float, low: float, high: float) -> int:
        """Take in a look; how many there were since the best."""
        if value > self.best + (NOTICED * (high - low) if self.best > float("-inf") else 0.0):
            self.best, self.best_step, self.since = value, step, 0
        else:
            self.since += 1
        return self.since
