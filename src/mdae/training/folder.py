"""The folder of a run: one process writes to it at a time, and what a killed one left half written is swept."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mdae.errors import ConfigError
from mdae.files import require_writable, write_json
from mdae.training.launch import World

LOCK, OWNER = ".lock", ".owner.json"
HALF_WRITTEN = re.compile(r"\.\d+\.part\..+")  # as `atomic_write` names what it writes
WAIT_S = 10.0  # for a run whose parent was killed: it hears of that within a second, and saves before it ends
WRITTEN_TO = ("", "checkpoints", "model", "pictures")

logger = logging.getLogger(__name__)


@contextmanager
def owned(out: Path, world: World) -> Iterator[None]:
    """Within the block the folder is this run's alone.

    The system gives the lock back when its process ends, however it ends.

    Raises:
        ConfigError: another run is at work in it.
        DataError: it cannot be written to.
    """
    lock = FileLock(out / LOCK)
    world.told(lambda: _take(lock, out))
    try:
        yield
    finally:
        if world.lead:
            (out / OWNER).unlink(missing_ok=True)
            lock.release()


def _take(lock: FileLock, out: Path) -> None:
    require_writable(out)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout as error:
        raise ConfigError(
            f"another run is at work in it: {_owner(out)}",
            where=out,
            mend="wait for its end, or give another folder",
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        logger.warning("%s: its file system has no locks; start no second run there", out)
    about = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_json(out / OWNER, about)
    sweep(out)


def _owner(out: Path) -> str:
    """Who has it, as far as that is known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads((out / OWNER).read_text())
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    return "a process that has not said which"


def sweep(out: Path) -> None:
    """Delete what saves that were killed left half written."""
    for name in WRITTEN_TO:
        for path in (out / name).glob(".*.part.*"):
            if HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)
