"""Preparing on many machines: the scans are dealt into shards, each a job of its own through submitit.

A job that fails or is killed loses nothing: its volumes are whole or not there, and the same command takes what is
missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mdae.data.catalogue import ScanEntry
from mdae.data.set_aside import SetAside
from mdae.data.store import Store, StoredScan
from mdae.data.workers import outcomes
from mdae.errors import ConfigError, DataError

if TYPE_CHECKING:
    import submitit

FOLDER = "jobs"  # of the store: scripts and logs


def outcomes_of_jobs(
    entries: list[ScanEntry],
    store: Store,
    *,
    kind: str,
    shards: int,
    workers: int,
    options: Mapping[str, str],
) -> Iterator[StoredScan | SetAside]:
    """The scans' outcomes, shard by shard as they end.

    Args:
        entries: the scans to prepare.
        store: where to, on a file system that all machines see.
        kind: "slurm", or "local" for jobs on this machine.
        shards: number of jobs.
        workers: processes of a job.
        options: submitit's parameters.

    Raises:
        ConfigError: no such cluster or parameter.
        DataError: some shards failed, after all have ended.
    """
    executor = _executor(store, kind, workers, options)
    empty = Store(store.path, store.contract, [])  # what jobs need of it
    parts = [entries[start::shards] for start in range(min(shards, len(entries)))]
    jobs = executor.map_array(_shard, parts, [empty] * len(parts), [workers] * len(parts))
    failed = []
    try:
        for job in _as_completed(jobs):
            if job.exception() is None:
                yield from job.result()
            else:
                failed.append(job)
    except (KeyboardInterrupt, GeneratorExit):
        for job in jobs:
            job.cancel(check=False)
        raise
    if failed:
        raise DataError(
            f"{len(failed)} of {len(jobs)} shards failed, e.g. {_last_line(failed[0])}",
            where=failed[0].paths.stderr,
            mend="look at its log; the same command takes what is missing",
        )


def _shard(entries: list[ScanEntry], store: Store, workers: int) -> list[StoredScan | SetAside]:
    """One job's work."""
    return list(outcomes(entries, store, workers))


def _executor(store: Store, kind: str, workers: int, options: Mapping[str, str]) -> submitit.AutoExecutor:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("submitit is not installed", mend="pip install submitit") from error
    try:
        executor = submitit.AutoExecutor(folder=store.path / FOLDER / "%j", cluster=kind)
        executor.update_parameters(
            name="mdae-prepare",
            cpus_per_task=workers,
            **{name: int(value) if value.isdigit() else value for name, value in options.items()},
        )
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{kind} jobs cannot be submitted: {reason}", mend="check --cluster and its options"
        ) from error
    return executor


def _as_completed(jobs: list[submitit.Job[list[StoredScan | SetAside]]]) -> Iterator[submitit.Job]:
    import submitit

    yield from submitit.helpers.as_completed(jobs, poll_frequency=1)


def _last_line(job: submitit.Job) -> str:
    """What a failed job said last: its error, without the traceback before it and submitit's advice after it."""
    said = [line.strip() for line in str(job.exception()).splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or said or ["nothing was said"])[-1]
