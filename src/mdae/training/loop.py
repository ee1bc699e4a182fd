"""The training loop. It knows stores, devices, optimisers and logs, and nothing of any objective."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mdae.data.splits import write_parts
from mdae.figures import save_png, to_pixels, volume_grid
from mdae.files import write_json
from mdae.progress import Progress
from mdae.training.checkpoint import load_latest, save_checkpoint
from mdae.training.config import PretrainConfig
from mdae.training.held_out import HeldOut
from mdae.training.launch import World, launch, leave, processes_wanted
from mdae.training.loader import micro_batches
from mdae.training.log import RunLog
from mdae.training.metrics import Watch, Window
from mdae.training.optimiser import learning_rate
from mdae.training.place import find_place
from mdae.training.ranks import run_ranks
from mdae.training.run import Run, export, micro_batch_size, open_run, require_same_run
from mdae.training.step import Learner, MicroBatch
from mdae.training.stopping import StopRequest

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train as configured and return the folder of the model.

    Started again with the same configuration after any interruption, it goes on from the last checkpoint and ends
    with the weights and the log of an uninterrupted run, bit for bit on a CPU.

    Raises:
        ConfigError, DataError: what cannot be carried out, before the first step.
        TrainingError: a loss that is not finite or has exploded.
        KeyboardInterrupt: after the checkpoint that a SIGINT or SIGTERM asked for.
    """
    wanted = processes_wanted(config)
    if not find_place().by and wanted > 1:
        run_ranks(config, wanted)
        return config.out / "model"
    run = open_run(config)
    world = launch(config)
    try:
        trainer = Trainer(run, world)
        trainer.restore()
        trainer.fit()
    finally:
        leave()
    return trainer.model_folder


class Trainer:
    """One process's share of a run.

    Attributes:
        step: optimiser steps made so far.
    """

    def __init__(self, run: Run, world: World) -> None:
        config = run.config
        self.run, self.config, self.world = run, config, world
        self.micro_batch = micro_batch_size(config, world.size)
        run.objective.check_batch(self.micro_batch)
        self.learner = Learner(
            run.objective.to(world.device),
            run.step_settings(bf16=world.bf16),
            lr=config.lr,
            weight_decay=config.weight_decay,
            ema=config.ema,
            distributed=world.distributed,
        )
        self.held_out = HeldOut(run, self.learner, self.micro_batch, world)
        self.identity = run.identity(precision=world.precision, micro_batch=self.micro_batch)
        self.window = Window()
        self.watch = Watch(run, self.window, world, self.checkpoints)
        self.step = 0

    @property
    def checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    @property
    def model_folder(self) -> Path:
        return self.config.out / "model"

    # -- resuming ---------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = load_latest(self.checkpoints, device=self.world.device)
        if found is None:
            return
        path, state = found
        require_same_run(path, state["fingerprint"], self.identity)
        self.learner.load_state(state)
        self.window.restore(state["window"])
        self.step = state["step"]

    def checkpoint(self) -> None:
        """Write everything that `restore` takes up, and the model as it stands."""
        self.watch.table()
        if not self.world.lead:
            return
        state = {
            **self.learner.state(),
            "step": self.step,
            "window": self.window.state(),
            "fingerprint": self.identity,
        }
        save_checkpoint(self.checkpoints, self.step, state)
        with self.learner.averaged():
            export(self.run, self.model_folder, self.step)

    # -- training ---------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from the current step to the last."""
        config = self.config
        if self.step == config.steps:
            logger.info("%s is complete: nothing to do", config.out)
            return
        log = self._open_log()
        started = time.monotonic()
        batches = micro_batches(self.run, self.world, first_step=self.step, micro_batch=self.micro_batch)
        with self._progress() as progress, StopRequest() as stop, closing(batches):
            while self.step < config.steps:
                self._train_step(batches)
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    seconds, started = time.monotonic() - started, time.monotonic()
                    self._log_row(log, progress, seconds)
                if config.val_every and (self.step % config.val_every == 0 or last):
                    self._validate(log)
                if config.picture_every and (self.step % config.picture_every == 0 or last):
                    self._picture(log)
                stopped = self._any_rank(stop.requested)
                if self.step % config.checkpoint_every == 0 or last or stopped:
                    self.checkpoint()
                if stopped and not last:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}; the same command goes on from there"
                    )
        if log is not None:
            log.close()

    def _open_log(self) -> RunLog | None:
        if not self.world.lead:
            return None
        log = RunLog(self.config.out, self.step)
        write_json(self.config.out / "run.json", self.identity)
        write_parts(self.config.out / "split.csv", self.run.parts)
        return log

    def _progress(self) -> Progress:
        shown = self.world.lead
        return Progress("pre-training", self.config.steps, done=self.step, unit=None, shown=shown)

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        """One optimiser step over this process's micro-batches."""
        config = self.config
        rate = learning_rate(
            self.step,
            peak=config.lr,
            warmup_steps=round(config.warmup * config.steps),
            total_steps=config.steps,
        )
        taken = [next(batches) for _ in range(config.accumulate)]
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
        with self.learner.averaged():
            row = self.held_out.means()
        if log is not None and row:
            log.row("val", self.step, row)

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

    def _any_rank(self, flag: bool) -> bool:
        """Whether any process was asked to stop; asked among them at log steps only, for it costs a wait."""
        if self.world.size > 1 and self.step % self.config.log_every:
            return False
        return self.world.largest([flag])[0] > 0
