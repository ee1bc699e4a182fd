"""The last few steps' numbers, kept on the device until they are wanted, and the watch over them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdae.errors import TrainingError
from mdae.training.launch import World, shared
from mdae.training.log import RunLog
from mdae.training.run import Run

PLAIN = (
    "loss",
    "grad_norm",
)  # columns of which every number counts; a term may be undefined (NaN) on some samples
CALMER = "lower --lr or --clip, use --precision 32"
EXPLODED = 100.0  # times the lowest mean loss so far

logger = logging.getLogger(__name__)


class Window:
    """Scalars of the steps since the last row of the log.

    Nothing is copied to the host before `drain`, so that the device never waits for the log.

    Attributes:
        lowest: the lowest mean loss of a row so far.
        in_a_row: the skipped steps that ended the last row.
        in_all: the skipped steps of all rows.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self.rows: list[Tensor] = []
        self.lowest = math.inf
        self.in_a_row = self.in_all = 0

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take in one step's scalars, under the same names each time; `loss` and `grad_norm` are among them."""
        self.names = list(values)
        self.steps.append(step)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))

    def table(self) -> Tensor:
        """The rows, (steps, names), on the device."""
        return torch.stack(self.rows) if self.rows else torch.empty(0, len(self.names))

    def exploded(self, table: Tensor) -> int | None:
        """The first step of `table` whose loss has exploded; once it was 0, a loss has no scale to tell by."""
        losses = self._column(table, "loss")
        for step, loss in zip(self.steps, losses, strict=True):
            if math.isfinite(loss) and loss > EXPLODED * self.lowest > 0:
                return step
        return None

    def skipped(self, table: Tensor) -> list[int]:
        """The steps of `table` whose loss or gradient was not finite, so that no weight moved."""
        values = zip(self._column(table, "loss"), self._column(table, "grad_norm"), strict=True)
        return [
            step
            for step, (loss, norm) in zip(self.steps, values, strict=True)
            if not (math.isfinite(loss) and math.isfinite(norm))
        ]

    def stuck(self, table: Tensor, limit: int) -> int | None:
        """The step of `table` that was the last of `limit` skipped in a row, counted from earlier rows on."""
        skipped, count = set(self.skipped(table)), self.in_a_row
        for step in self.steps:
            count = count + 1 if step in skipped else 0
            if count >= limit:
                return step
        return None

    def drain(self, table: Tensor) -> dict[str, float]:
        """The mean of each column over the steps that were not skipped; the window is then empty."""
        skipped = set(self.skipped(table))
        taken = table[[step not in skipped for step in self.steps]]
        means = dict(zip(self.names, self.mean(taken).tolist(), strict=True))
        for step in self.steps:
            self.in_a_row = self.in_a_row + 1 if step in skipped else 0
        self.in_all += len(skipped)
        self.lowest = min(self.lowest, means["loss"])
        self.steps, self.rows = [], []
        return means

    def mean(self, tables: Tensor) -> Tensor:
        """Over the first axis, (n, ..., names) to (..., names)."""
        plain = torch.tensor([name in PLAIN for name in self.names], device=tables.device)
        return torch.where(plain, tables.mean(dim=0), tables.nanmean(dim=0))

    def _column(self, table: Tensor, name: str) -> list[float]:
        return [float(value) for value in table[:, self.names.index(name)].tolist()] if self.steps else []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "names": self.names,
            "steps": list(self.steps),
            "rows": list(self.rows),
            "lowest": self.lowest,
            "in_a_row": self.in_a_row,
            "in_all": self.in_all,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.names, self.steps = state["names"], state["steps"]
        self.rows, self.lowest = state["rows"], state["lowest"]
        self.in_a_row, self.in_all = state.get("in_a_row", 0), state.get("in_all", 0)


class Watch:
    """Looks at the window's numbers when they are logged or saved, and stops a run that has gone astray.

    Args:
        run: whose.
        window: its numbers.
        world: over whose processes they are averaged.
        checkpoints: the folder, for the error.
    """

    def __init__(self, run: Run, window: Window, world: World, checkpoints: Path) -> None:
        self.run, self.window, self.world, self.checkpoints = run, window, world, checkpoints

    def table(self) -> Tensor:
        """The window's numbers, averaged over processes.

        Raises:
            TrainingError: the loss has exploded.
        """
        window = self.window
        table = window.mean(self.world.gather(window.table())) if window.rows else window.table()
        step = window.exploded(table)
        if step is not None:
            values = self._told(step, table)
            raise shared(
                self._stopped(f"training diverged at step {step} ({values})", step, "lower --lr or --clip")
            )
        return table

    def row(self, log: RunLog | None) -> dict[str, float]:
        """The next row of the log; the window is then empty. Skipped batches are told with their scans.

        Raises:
            TrainingError: too many in a row, or at the end more than half of all.
        """
        table, window = self.table(), self.window
        for step in window.skipped(table):
            self._tell(step, table, log)
        config = self.run.config
        limit = max(1, min(config.max_skipped, config.steps // 2))  # of a short run not most of it
        if (stuck := window.stuck(table, limit)) is not None:
            told = f"the last at step {stuck} ({self._told(stuck, table)})"
            what = f"training diverged: {limit} batch(es) in a row were not finite, {told}"
            raise shared(self._stopped(what, stuck, CALMER))
        last, means = window.steps[-1], window.drain(table)
        if last == config.total_steps and 2 * window.in_all > last:
            what = f"training diverged: {window.in_all} of {last} batches were not finite"
            raise shared(self._stopped(what, last, CALMER))
        return means

    def spoilt(self, step: int) -> TrainingError:
        """The error of a run whose weights are no longer finite, from which no step leads back."""
        what = f"training diverged: weights are not finite after step {step}"
        return self._stopped(what, step, CALMER)

    def _tell(self, step: int, table: Tensor, log: RunLog | None) -> None:
        told, scans = self._told(step, table), " ".join(self.scans(step))
        logger.warning("step %d was not finite (%s) and was skipped; its scans: %s", step, told, scans)
        if log is not None:
            values = dict(zip(self.window.names, table[self.window.steps.index(step)].tolist(), strict=True))
            log.row("skipped", step, {name: values[name] for name in PLAIN} | {"scans": scans})

    def scans(self, step: int) -> list[str]:
        """The scans of a step's batch."""
        first = (step - 1) * self.run.config.batch
        return [self.run.train(first + n).scan.scan_id for n in range(self.run.config.batch)]

    def _told(self, step: int, table: Tensor) -> str:
        row = table[self.window.steps.index(step)].tolist()
        named = zip(self.window.names, row, strict=True)
        return ", ".join(f"{name} {value:.3g}" for name, value in named if name != "lr")

    def _stopped(self, what: str, step: int, mend: str) -> TrainingError:
        good = sorted(self.checkpoints.glob("step-*.pt"))
        return TrainingError(
            f"{what} on scans {', '.join(self.scans(step))}; "
            f"last good checkpoint: {good[-1] if good else 'none yet'}",
            where=self.run.config.out,
            mend=f"look at these scans, or {mend} and give another folder for the run",
        )
