"""The last few steps' numbers, kept on the device until they are wanted, and the watch for divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

EXPLODED = 100.0  # times the lowest mean loss so far


class Window:
    """Scalars of the steps since the last row of the log.

    Nothing is copied to the host before `drain`, so that the device never waits for the log.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self.rows: list[Tensor] = []
        self.lowest = math.inf

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take in one step's scalars, under the same names each time."""
        self.names = list(values)
        self.steps.append(step)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))

    def table(self) -> Tensor:
        """The rows, (steps, names), on the device."""
        return torch.stack(self.rows)

    def diverged(self, table: Tensor) -> int | None:
        """The first step of `table` whose loss or gradient is not finite or whose loss has exploded."""
        for step, row in zip(self.steps, table.tolist(), strict=True):
            values = dict(zip(self.names, row, strict=True))
            finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
            exploded = values["loss"] > EXPLODED * self.lowest > 0  # once 0, a loss has no scale to tell by
            if not finite or exploded:
                return step
        return None

    def drain(self, table: Tensor) -> dict[str, float]:
        """The mean of each column over the steps where it is defined; the window is then empty."""
        means = dict(zip(self.names, torch.nanmean(table, dim=0).tolist(), strict=True))
        self.lowest = min(self.lowest, means["loss"])
        self.steps, self.rows = [], []
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"names": self.names, "steps": self.steps, "rows": self.rows, "lowest": self.lowest}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.names, self.steps = state["names"], state["steps"]
        self.rows, self.lowest = state["rows"], state["lowest"]
