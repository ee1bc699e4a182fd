"""Scans read in threads, a few ahead of the network that runs on them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def ahead(
    items: Iterable[Item], load: Callable[[Item], Loaded], workers: int = 0
) -> Iterator[tuple[Item, Future[Loaded]]]:
    """Items in order, each with the future of what is loaded of it.

    Args:
        items: whatever `load` takes.
        load: run in threads; what it raises, the future does.
        workers: threads; 0 for one a core.
    """
    workers = workers or os.cpu_count() or 1
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        queue: deque[tuple[Item, Future[Loaded]]] = deque()
        while True:
            for item in islice(waiting, 2 * workers - len(queue)):
                queue.append((item, pool.submit(load, item)))
            if not queue:
                return
            yield queue.popleft()
