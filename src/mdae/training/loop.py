"""The training loop. It knows stores, devices, optimisers and logs, and nothing of any objective."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mdae.data.splits import write_parts
from mdae.errors import MDAEError
from mdae.figures import save_png, to_pixels, volume_grid
from mdae.files import write_json
from mdae.progress import Progress
from mdae.training.cadence import Clock
from mdae.training.checkpoint import CheckpointWriter, forget_after
from mdae.training.config import PretrainConfig
from mdae.training.diagnostics import Diagnostic, Moment
from mdae.training.diagnostics.standard import standard
from mdae.training.folder import owned
from mdae.training.held_out import HeldOut
from mdae.training.identity import require_one_run, write_scans
from mdae.training.launch import World, launch, leave, processes_wanted, shared
from mdae.training.loader import micro_batches
from mdae.training.log import TABLES, RunLog
from mdae.training.memory import fitted_micro_batch
from mdae.training.metrics import Watch, Window
from mdae.training.place import find_place
from mdae.training.ranks import run_ranks
from mdae.training.resume import find_state
from mdae.training.run import Run, export, open_run
from mdae.training.schedule import held_until, legs_of, rate_at
from mdae.training.step import Learner, MicroBatch
from mdae.training.stopping import StopRequest
from mdae.training.troubles import plain_errors
from mdae.training.wandb_log import WandbLog, require_wandb

Watching = Callable[[Run], Sequence[Diagnostic]]

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, watch: Watching = standard) -> Path:
    """Pre-train as configured and return the folder of the model.

    Started again with the same configuration after any interruption, it goes on from the last checkpoint and ends
    with the weights and the log of an uninterrupted run, bit for bit on a CPU.

    Args:
        config: what is trained.
        watch: what looks at a run besides its loss; `mdae.evaluation.online.watching` has probes too.

    Raises:
        ConfigError, DataError: what cannot be carried out, before the first step.
        TrainingError: a loss that has exploded, or is not finite time and again; a process that was killed.
        KeyboardInterrupt: after the checkpoint that a SIGINT or SIGTERM asked for.
    """
    if not find_place().by and (number := processes_wanted(config)) > 1:
        run_ranks(config, number)
        return config.out / "model"
    with plain_errors(config):
        world = launch(config)
        try:
            _train(config, world, watch)
        except (MDAEError, KeyboardInterrupt) as error:
            if not world.lead and getattr(error, "shared", False):
                sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)  # the lead says why
            raise
        finally:
            leave()
    return config.out / "model"


def _train(config: PretrainConfig, world: World, watch: Watching) -> None:
    require_wandb(config.wandb)
    run = world.each(lambda: open_run(config))
    trainer = Trainer(run, world, world.each(lambda: watch(run)))
    require_one_run(world, config, trainer.identity)
    with owned(config.out, world):
        trainer.restore()
        if config.export_now:
            trainer.export()
        else:
            trainer.fit()


class Trainer:
    """One process's share of a run.

    Args:
        run: what is trained on what.
        world: the processes.
        diagnostics: what looks at it at every validation, besides the loss.

    Attributes:
        step: optimiser steps made so far.
    """

    def __init__(self, run: Run, world: World, diagnostics: Sequence[Diagnostic] = ()) -> None:
        config = run.config
        self.run, self.config, self.world, self.diagnostics = run, config, world, diagnostics
        self.micro_batch = world.each(lambda: fitted_micro_batch(run, world))
        self.accumulate = config.batch // (world.size * self.micro_batch)
        self.legs = legs_of(config)
        self.held = held_until(self.legs)
        self.learner = Learner(
            run.objective.to(world.device),
            run.step_settings(bf16=world.bf16),
            lr=config.lr,
            weight_decay=config.weight_decay,
            ema=config.ema,
            distributed=partial(world.distributed, accumulate=self.accumulate),
        )
        self.held_out = HeldOut(run, self.learner, self.micro_batch, world)
        self.identity = run.identity(precision=world.precision, micro_batch=self.micro_batch)
        self.window = Window()
        self.watch = Watch(run, self.window, world, self.checkpoints)
        self.writer = CheckpointWriter(self.checkpoints)
        self.step = 0

    @property
    def checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    # -- resuming ---------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        state = find_state(self.run, self.identity, self.checkpoints, self.world, self.legs)
        self.step = state.get("step", 0)
        if "objective" in state:
            self.learner.load_state(state)
            self.window.restore(state["window"])
            if "OMP_NUM_THREADS" not in os.environ and state.get("threads"):
                torch.set_num_threads(state["threads"])  # others round otherwise
            if self.world.lead:
                forget_after(self.checkpoints, self.step)
        elif self.run.begun is not None and self.step == 0:
            for line in self.run.begun.lines():
                logger.warning(line)

    def checkpoint(self) -> None:
        """Begin to write everything that `restore` takes up."""
        self.watch.table()
        self._require_finite()
        if self.world.lead:
            self.writer.save(self.step, self._state(), keep=self.step in self.held)

    def _state(self) -> dict[str, Any]:
        return {
            **self.learner.state(),
            "step": self.step,
            "threads": torch.get_num_threads(),
            "legs": [asdict(leg) for leg in self.legs],
            "window": self.window.state(),
            "fingerprint": self.identity,
        }

    def export(self) -> None:
        """Write the model as it stands."""
        self._require_finite()
        if self.world.lead:
            with self.learner.averaged():
                export(self.run, self.config.out / "model", self.step)

    def _require_finite(self) -> None:
        """Weights that are not finite are looked at by nobody, and kept nowhere; they are the same on every process."""
        if not self.learner.finite():
            raise shared(self.watch.spoilt(self.step))

    # -- training ---------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from the current step to the last."""
        if self.step == self.config.total_steps:
            logger.info("%s is complete: nothing to do", self.config.out)
            return
        log = self._open_log()
        batches = micro_batches(self.run, self.world, first_step=self.step, micro_batch=self.micro_batch)
        try:
            with self._progress() as progress, StopRequest() as stop, closing(batches):
                self._steps(batches, stop, log, progress)
            self.writer.wait()
        finally:
            self.writer.close()
            if log is not None:
                log.close()

    def _steps(
        self, batches: Iterator[MicroBatch], stop: StopRequest, log: RunLog | None, progress: Progress
    ) -> None:
        clock = Clock(self.run.cadences, self.config.total_steps, self.world)
        started = time.monotonic()
        while self.step < self.config.total_steps:
            self._train_step(batches)
            due = clock.after(self.step, stop=stop.requested)
            self.writer.look()
            if "log" in due:
                seconds, started = time.monotonic() - started, time.monotonic()
                self._log_row(log, progress, seconds)
            if "val" in due:
                self._validate(log)
            if "picture" in due:
                self._picture(log)
            if due & {"checkpoint", "stop"} or self.step in self.held:
                self.checkpoint()
            if due & {"export", "stop"}:
                self.export()
            if "stop" in due:
                self.writer.wait()
                raise shared(
                    KeyboardInterrupt(f"stopped after step {self.step}; the same command goes on from there")
                )

    def _open_log(self) -> RunLog | None:
        """The run's log and its record, by the lead."""
        if not self.world.lead:
            return None
        out, tables = self.config.out, (*TABLES, *(each.table for each in self.diagnostics))
        mirror = WandbLog(self.config.wandb, out, self.identity) if self.config.wandb else None
        log = RunLog(out, self.step, tables, mirror)
        write_json(out / "run.json", self.identity)
        write_parts(out / "split.csv", self.run.parts)
        write_scans(self.checkpoints, self.run.scans, self.run.parts)
        return log

    def _progress(self) -> Progress:
        shown = self.world.lead
        return Progress("pre-training", self.config.total_steps, done=self.step, unit=None, shown=shown)

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        """One optimiser step over this process's micro-batches."""
        rate = rate_at(self.legs, self.step)
        taken = [next(batches) for _ in range(self.accumulate)]
        self.step += 1
        self.window.add(self.step, self.learner.step(taken, rate, self.step))

    # -- looking ----------------------------------------------------------------------------------------------

    def _log_row(self, log: RunLog | None, progress: Progress, seconds: float) -> None:
        volumes = len(self.window.steps) * self.config.batch
        row = self.watch.row(log)
        progress.update(self.step, f"{volumes / seconds:.1f} volumes/s · loss {row['loss']:.4f}")
        if log is not None:
            log.row("train", self.step, row)

    def _validate(self, log: RunLog | None) -> None:
        """The held-out loss, and what else looks at the run."""
        self._require_finite()
        moment = Moment(self.step, self.run, self.learner, self.held_out, self.world)
        with self.learner.averaged():
            rows = {"val": self.held_out.means()}
            rows |= {each.table: dict(each.look(moment)) for each in self.diagnostics}
        for table, row in rows.items():
            if log is not None and row:
                log.row(table, self.step, row)

    def _picture(self, log: RunLog | None) -> None:
        """What the objective shows of the first held-out volumes, as a file and in TensorBoard."""
        if log is None:
            return
        with self.learner.averaged():
            rows = self.held_out.pictures()
        if rows:
            figure = volume_grid(rows)
            save_png(self.config.out / "pictures" / f"step-{self.step:08d}.png", figure)
            log.picture("reconstructions", self.step, to_pixels(figure))
