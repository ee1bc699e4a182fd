"""`mdae pretrain --dry-run`: a few real steps, and from them what the whole run will take. Nothing is written."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from mdae.training.config import PretrainConfig
from mdae.training.launch import World, launch, leave, processes_wanted
from mdae.training.loader import micro_batches
from mdae.training.memory import countable_on_cpu, fitted_micro_batch, holds
from mdae.training.place import find_place
from mdae.training.ranks import run_ranks
from mdae.training.run import Run, open_run
from mdae.training.schedule import legs_of, rate_at
from mdae.training.step import Learner, MicroBatch
from mdae.training.troubles import plain_errors

WARM_UP = 2  # steps that are not timed: memory, kernels and readers are found in them
TIMED, ENOUGH_S = 10, 20.0  # steps, or seconds
MOST_AT_ONCE = 256
ASSUMED_W = {"cpu": 65.0, "cuda": 500.0, "mps": 30.0}  # of one device, where none can be read
AUTHORS = ((500_000, 32), (500_000, 48))  # steps and batches that the authors' public logs suggest
GIGA, JOULES_A_KWH = 1e9, 3.6e6


@dataclass(frozen=True)
class Forecast:
    """What was measured, and what follows.

    Attributes:
        device: its name; `devices` of them took part.
        micro_batch: volumes at once on each.
        step_s, waiting_s: of one optimiser step, and what of it went by waiting for crops.
        peak_bytes: of memory, on one device.
        largest: the largest micro-batch that fits there; `counted` if it was counted and not tried.
        power_w: of one device; `measured` if it was read.
    """

    config: PretrainConfig
    device: str
    devices: int
    micro_batch: int
    step_s: float
    waiting_s: float
    peak_bytes: float
    largest: int
    counted: bool
    power_w: float
    measured: bool

    def hours(self, steps: int, batch: int) -> float:
        """Of so many steps of such batches."""
        return steps * self.step_s * batch / self.config.batch / 3600

    def kwh(self, steps: int, batch: int) -> float:
        """What the devices take, the rest of the machine not counted."""
        return self.hours(steps, batch) * self.devices * self.power_w * 3600 / JOULES_A_KWH

    def lines(self) -> list[str]:
        """What a user is told."""
        config = self.config
        split = config.batch // (self.devices * self.micro_batch)
        power = "measured" if self.measured else "assumed"
        return [
            f"{self.devices} x {self.device}: {self.step_s:.3g} s a step of batch {config.batch} "
            f"({split} micro-batch(es) of {self.micro_batch} on each), {config.batch / self.step_s:.3g} volumes/s; "
            f"{self.waiting_s:.2g} s of it waiting for crops",
            f"peak memory {self.peak_bytes / GIGA:.2f} GB; largest micro-batch that fits: {self.largest}"
            f"{' (counted, not tried)' if self.counted else ''}",
            f"power {self.power_w:.0f} W a device ({power}), the rest of the machine not counted",
            self._plan("this run", config.total_steps, config.batch),
            *(self._plan("as the authors' logs suggest", *plan) for plan in AUTHORS),
            "validations, pictures and checkpoints come on top: a twentieth, unless --val-every says otherwise",
        ]

    def _plan(self, what: str, steps: int, batch: int) -> str:
        hours = self.hours(steps, batch)
        days = f" ({hours / 24:.1f} days)" if hours > 48 else ""
        return (
            f"{what}: {steps} steps of batch {batch}: {hours:.3g} h{days}, {self.kwh(steps, batch):.3g} kWh"
        )


def dry_run(config: PretrainConfig) -> list[str]:
    """Measure, and say what the run will take; empty for all processes but the first.

    Raises:
        ConfigError, DataError: what `pretrain` would not carry out either.
    """
    if not find_place().by and (number := processes_wanted(config)) > 1:
        run_ranks(config, number)
        return []
    with plain_errors(config):
        world = launch(config)
        try:
            found = forecast(config, world)
        finally:
            leave()
    return found.lines() if world.lead else []


def forecast(config: PretrainConfig, world: World) -> Forecast:
    """Measure steps of a run on this machine."""
    enough = replace(config, steps=max(config.steps, WARM_UP + TIMED))  # so that there are crops for all
    run = world.each(lambda: open_run(enough))
    micro_batch = world.each(lambda: fitted_micro_batch(run, world))
    learner = Learner(
        run.objective.to(world.device),
        run.step_settings(bf16=world.bf16),
        lr=run.config.lr,
        weight_decay=config.weight_decay,
        ema=config.ema,
        distributed=partial(world.distributed, accumulate=config.batch // (world.size * micro_batch)),
    )
    with closing(micro_batches(run, world, first_step=0, micro_batch=micro_batch)) as batches:
        step_s, waiting_s, power_w = _timed(run, world, learner, batches, micro_batch)
    peak = _peak_bytes(world)
    kind = world.device.type
    del learner
    return Forecast(
        config=config,
        device=_device_name(world),
        devices=world.size,
        micro_batch=micro_batch,
        step_s=step_s,
        waiting_s=waiting_s,
        peak_bytes=peak,
        largest=max(micro_batch, _largest(run, world)),
        counted=kind != "cuda",
        power_w=ASSUMED_W.get(kind, ASSUMED_W["cpu"]) if power_w is None else power_w,
        measured=power_w is not None,
    )


def _timed(
    run: Run, world: World, learner: Learner, batches: Iterator[MicroBatch], micro_batch: int
) -> tuple[float, float, float | None]:
    """Seconds of a step and of waiting in it, and the power that was drawn meanwhile, if it can be read."""
    number = run.config.batch // (world.size * micro_batch)
    legs, spent, waited, powers = legs_of(run.config), 0.0, 0.0, []
    for step in range(WARM_UP + TIMED):
        started = time.perf_counter()
        taken = [next(batches) for _ in range(number)]
        there = time.perf_counter()
        learner.step(taken, rate_at(legs, step), step + 1)
        _finish(world)
        if step >= WARM_UP:
            powers.append(_power(world))
            spent, waited = spent + time.perf_counter() - started, waited + there - started
        elif time.perf_counter() - started > ENOUGH_S and step == 0:
            spent, waited = spent + time.perf_counter() - started, waited + there - started
        if world.told(lambda spent=spent: spent >= ENOUGH_S):  # type: ignore[misc]
            break
    timed = max(1, step + 1 - WARM_UP)
    known = [power for power in powers if power is not None]
    return spent / timed, waited / timed, sum(known) / len(known) if known else None


def _finish(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def _peak_bytes(world: World) -> float:
    if world.device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(world.device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _largest(run: Run, world: World) -> int:
    """The largest micro-batch that fits, up to `MOST_AT_ONCE`."""
    most = max(n for n in range(1, MOST_AT_ONCE + 1) if n == 1 or run.countable(n))
    if world.device.type != "cuda":
        return min(most, countable_on_cpu(run, world))
    low, high = 0, 1  # fits, and is to be tried
    while high <= most and holds(run, world, high):
        low, high = high, 2 * high
    high = min(high, most + 1)  # does not fit
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(run, world, middle) else (low, middle)
    return max(low, 1)


def _device_name(world: World) -> str:
    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    return f"{platform.machine()} {world.device.type.upper()}, {torch.get_num_threads()} thread(s)"


def _power(world: World) -> float | None:
    """Watts that a GPU draws now, as its driver says; None if nothing says it."""
    if world.device.type != "cuda":
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(world.device).uuid}"
    command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", uuid]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return float(said.strip().splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
