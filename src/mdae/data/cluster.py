"""Preparing on many machines: the scans are dealt into shards, each a job of its own through submitit.

A job that fails or is killed loses nothing: its volumes are whole or not there, and the same command takes what is
missing. Every shard keeps a note of how it fares in `jobs/shards/`, which `mdae check` reads and which outlives the
process that submitted it.
"""

from __future__ import annotations

import json
import platform
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdae.data.catalogue import ScanEntry
from mdae.data.set_aside import SetAside
from mdae.data.store import Store, StoredScan
from mdae.data.workers import outcomes
from mdae.errors import ConfigError, DataError
from mdae.extras import require
from mdae.files import atomic_write

if TYPE_CHECKING:
    import submitit

FOLDER = "jobs"  # of the store: scripts, logs and notes


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
    executor = job_executor(store.path / FOLDER, "mdae-prepare", kind, options, cpus_per_task=workers)
    empty = Store(store.path, store.contract, [])  # what jobs need of it
    parts = [entries[start::shards] for start in range(min(shards, len(entries)))]
    clear_notes(store.path)
    submission = uuid.uuid4().hex[:8]  # jobs of an earlier one may still run: theirs are other notes
    notes = [ShardNote(number, len(part), submission=submission) for number, part in enumerate(parts)]
    for note in notes:
        note.write(store.path)
    jobs = executor.map_array(_shard, notes, parts, [empty] * len(parts), [workers] * len(parts))
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
            f"{len(failed)} of {len(jobs)} shards failed, e.g. {last_line(failed[0])}",
            where=failed[0].paths.stderr,
            mend="look at its log; the same command takes what is missing",
        )


@dataclass
class ShardNote:
    """How a shard fares.

    Attributes:
        number, num_scans: which shard, of how many scans.
        state: "waiting", "running", "done" or "failed".
        host, since: where and when (seconds since 1970) it began; "" and 0 before.
        log: what it said.
        error: why it failed.
        set_aside: the scans that it could not take, so far if it failed.
        submission: which one it belongs to.
    """

    number: int
    num_scans: int
    state: str = "waiting"
    host: str = ""
    since: float = 0.0
    log: str = ""
    error: str = ""
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    submission: str = ""

    def write(self, store: Path) -> None:
        """Keep it with the store."""
        with atomic_write(_notes(store) / f"{self.number:05d}-{self.submission}.json") as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n")


def _notes(store: Path) -> Path:
    return store / FOLDER / "shards"


def read_notes(store: Path) -> list[ShardNote]:
    """The notes of the last submission's shards; those that cannot be read are passed over."""
    notes = []
    for path in sorted(_notes(store).glob("[0-9]*.json")):
        try:
            notes.append(ShardNote(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return notes


def clear_notes(store: Path) -> None:
    """Forget the last submission's shards."""
    for path in _notes(store).glob("[0-9]*.json"):
        path.unlink(missing_ok=True)


def set_aside_by_shards(store: Path) -> dict[str, SetAside]:
    """What shards set aside, by path, where the file is as it was; for when the submitting process did not live."""
    rows = (SetAside(**row) for note in read_notes(store) for row in note.set_aside)
    return {row.path: row for row in rows if row.stands}


def _shard(
    note: ShardNote, entries: list[ScanEntry], store: Store, workers: int
) -> list[StoredScan | SetAside]:
    """One job's work."""
    import submitit

    log = str(submitit.JobEnvironment().paths.stderr)
    note = replace(note, state="running", host=platform.node(), since=time.time(), log=log)
    note.write(store.path)
    found: list[StoredScan | SetAside] = []
    try:
        for outcome in outcomes(entries, store, workers):
            found.append(outcome)
        note.state = "done"
    except BaseException as error:
        note.state, note.error = "failed", " ".join(f"{type(error).__name__}: {error}".split())
        raise
    finally:
        note.set_aside = [asdict(row) for row in found if isinstance(row, SetAside)]
        note.write(store.path)
    return found


def job_executor(
    folder: Path, name: str, kind: str, options: Mapping[str, str], **fixed: int
) -> submitit.AutoExecutor:
    """What submits jobs.

    Args:
        folder: of their scripts and logs.
        name: that the cluster shows.
        kind: "slurm", or "local" for jobs on this machine.
        options: submitit's parameters, as text.
        fixed: parameters that the options may not name.

    Raises:
        ConfigError: no such cluster or parameter.
    """
    require("submitit", "submits jobs")
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=kind)
        executor.update_parameters(
            name=name,
            **fixed,
            **{option: int(value) if value.isdigit() else value for option, value in options.items()},
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


def last_line(job: submitit.Job) -> str:
    """What a failed job said last: its error, without the traceback before it and submitit's advice after it."""
    said = [line.strip() for line in str(job.exception()).splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or said or ["nothing was said"])[-1]
