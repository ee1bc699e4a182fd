"""Working through a sweep: a worker takes the next run that nobody has, and a killed worker's run is free again.

A run belongs to whoever holds the lock of its folder. The system gives the lock back when its process ends, however it
ends, so there is nothing to clean up; what the run had reached is its checkpoint.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdae.child import Child, run_children
from mdae.claims import claimed
from mdae.data.cluster import job_executor, last_line
from mdae.data.workers import num_cores
from mdae.errors import DataError, MDAEError, PartnerError, TrainingError
from mdae.sweep.config import SweepConfig
from mdae.sweep.spec import SweepRun, read_spec
from mdae.sweep.state import DONE, FAILED, forget_failure, is_over, note, read_done, tried
from mdae.training.command import command_line
from mdae.training.config import PretrainConfig
from mdae.training.place import without_place

logger = logging.getLogger(__name__)


def sweep(config: SweepConfig) -> Path:
    """Work through a sweep, then make its table; the page that shows it.

    Raises:
        ConfigError: a specification that cannot be carried out, before anything is run.
        DataError: some runs did not end, after all others have.
        KeyboardInterrupt: after the runs under way have written their checkpoints.
    """
    from mdae.sweep.table import make_table  # here: workers draw nothing

    spec = read_spec(config.spec)
    if not config.table:
        spec.require_data()
        if config.retry:
            for run in spec.runs():
                forget_failure(config.folder / run.key)
        _start_workers(config)
    page = make_table(spec, config.folder, config.out)
    runs = spec.runs()
    unfinished = [run for run in runs if not is_over(run, config.folder / run.key)]
    if unfinished and not config.table:
        raise DataError(
            f"{len(unfinished)} of {len(runs)} runs did not end",
            where=config.out,
            mend="repeat the command, unless others are at work on them",
        )
    return page


def _start_workers(config: SweepConfig) -> None:
    if config.cluster:
        _on_cluster(config)
    else:
        work(config.spec, config.folder, config.workers)


def _on_cluster(config: SweepConfig) -> None:
    """The workers as jobs; they end when no run is left, and this waits for them."""
    executor = job_executor(config.out / "jobs", "mdae-sweep", config.cluster, config.cluster_options)
    spec, folder, number = config.spec.resolve(), config.folder.resolve(), config.workers or 1
    jobs = executor.map_array(work, [spec] * number, [folder] * number)
    for job in jobs:
        if job.exception() is not None:
            logger.warning("a worker ended early (%s); see %s", last_line(job), job.paths.stderr)


def work(path: Path, runs: Path, workers: int = 0) -> int:
    """Work through the runs on this machine until none is left that nobody has; how many were finished.

    Args:
        path: of the specification.
        runs: the folder of the runs.
        workers: runs at a time; 0 for one for each GPU or, if a run takes several, each set of them.
    """
    spec = read_spec(path)
    shares = shares_of_devices(visible_gpus(), int(spec.base.get("devices") or 1), workers)
    if len(shares) == 1:
        return take_runs(path, runs, shares[0])
    before = sum(is_over(run, runs / run.key) for run in spec.runs())
    context = multiprocessing.get_context("spawn")
    threads = max(1, num_cores() // len(shares))
    started = [context.Process(target=_work_quietly, args=(path, runs, share, threads)) for share in shares]
    try:
        for worker in started:
            worker.start()
        for worker in started:
            worker.join()
    except KeyboardInterrupt:
        for worker in started:
            worker.join()  # each has the signal too, and its run writes a checkpoint
        raise
    return sum(is_over(run, runs / run.key) for run in spec.runs()) - before


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def shares_of_devices(gpus: Sequence[str], each: int, workers: int) -> list[str | None]:
    """The GPUs of each worker, as CUDA_VISIBLE_DEVICES names them; None where there are none.

    Args:
        gpus: those of this machine.
        each: of one run.
        workers: how many; 0 for as many as have GPUs of their own. More than these share them.
    """
    slots = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    if not slots:
        return [",".join(gpus) or None] * (workers or 1)
    return [slots[i % len(slots)] for i in range(workers or len(slots))]


def take_runs(path: Path, runs: Path, gpus: str | None, threads: int = 0) -> int:
    """Take one run after the other until none is left that nobody has; how many were finished.

    Args:
        path, runs: as for `work`.
        gpus: for CUDA_VISIBLE_DEVICES; None to leave it.
        threads: on a CPU; 0 for torch's own choice.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # for what judges the runs, in this process, as well
    if threads:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    finished, parent = 0, multiprocessing.parent_process()
    for run in read_spec(path).runs():
        folder = runs / run.key
        if is_over(run, folder):
            continue
        if parent is not None and not parent.is_alive():
            break  # whoever started this was killed, and nobody would know of it
        with claimed(folder / "lock") as mine:
            if mine and not is_over(run, folder):
                _finish(run, folder)
                finished += 1
    return finished


def _work_quietly(path: Path, runs: Path, gpus: str | None, threads: int) -> None:
    """A worker process of its own: what stops it is one line, or none for Ctrl-C, of which the first process tells."""
    try:
        take_runs(path, runs, gpus, threads)
    except KeyboardInterrupt:
        sys.exit(130)
    except MDAEError as error:
        logger.error("%s", error)
        sys.exit(2)


def _finish(run: SweepRun, folder: Path) -> None:
    """Pre-train, judge, and note what came of it; that a run diverged is noted too, and the others go on."""
    from mdae.evaluation.evaluate import evaluate

    about = {"variant": run.variant, "seed": run.seed, "options": dict(run.options)}
    try:
        done = read_done(folder) or {**about, "pretraining_s": _pretrain(run, folder), "tasks": []}
    except PartnerError:
        raise  # killed, for want of memory say
    except TrainingError as error:  # all else is not the run's own fault, and stops the worker
        note(folder / FAILED, {**about, "error": str(error)})
        logger.warning("run %s (%s, seed %d) failed: %s", run.key, run.variant, run.seed, error)
        return
    done.setdefault("failed_tasks", {})
    note(folder / DONE, done)
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)  # the model stays
    for key, config in run.evaluations(folder).items():
        if key in tried(done):
            continue
        try:
            list(evaluate(config))
            done["tasks"].append(key)
        except TrainingError as error:  # of fine-tuning, say; the other tasks still judge the run
            done["failed_tasks"][key] = f"{', '.join(config.task)}: {error}"
            logger.warning("run %s (%s, seed %d), a task failed: %s", run.key, run.variant, run.seed, error)
        note(folder / DONE, done)


def _pretrain(run: SweepRun, folder: Path) -> float | None:
    """Seconds that it took, None if it went on from a checkpoint; a process of its own, on the worker's devices."""
    resumed, started = (folder / "run" / "checkpoints").exists(), time.monotonic()
    config = run.pretraining(folder)
    if config.accelerator in ("auto", "cuda") and not config.devices and visible_gpus():
        config = replace(config, devices=1)
    _run_apart(config, f"run {run.key}")
    return None if resumed else time.monotonic() - started


def _run_apart(config: PretrainConfig, name: str) -> None:
    """`mdae pretrain`, waited for; raises what it says."""
    run_children([Child(command_line(config), without_place(), name)])
