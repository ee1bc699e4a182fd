"""Work that several processes share: each piece is one process's at a time.

The system gives a lock back when its process ends, however it ends, so that there is nothing to clean up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def claimed(lock: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether a piece of work is this process's for the length of the block.

    Args:
        lock: a file that stands for it; its folder is made if need be.
        wait: until whoever has it is done, instead of leaving it to them.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=-1 if wait else 0)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()
