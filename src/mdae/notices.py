"""What is told of many scans alike: one line with a count and an example, instead of a line a scan."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mdae.text import printable

logger = logging.getLogger(__name__)

READERS = ("nibabel", "pydicom", "nrrd")  # they warn of headers without naming the file; our checks name both

_lock = threading.Lock()
_ears = threading.local()
_collected: list[tuple[str, str]] | None = None


def notice(text: str, where: object) -> None:
    """Tell of a scan, at once, or with others like it where notices are collected; and to whoever hears this thread."""
    for heard in getattr(_ears, "open", ()):
        heard.append(text)
    with _lock:
        if _collected is not None:
            _collected.append((text, printable(str(where))))
            return
    logger.warning("%s: %s", printable(str(where)), text)


@contextmanager
def hearing() -> Iterator[list[str]]:
    """What this thread tells within the block, to be kept beside a scan's results; it is told as well."""
    heard: list[str] = []
    _ears.open = (*getattr(_ears, "open", ()), heard)
    try:
        yield heard
    finally:
        _ears.open = tuple(own for own in _ears.open if own is not heard)


def add(notices: Iterable[tuple[str, str]]) -> None:
    """Pass on what another process has told."""
    for text, where in notices:
        notice(text, where)


def drain() -> list[tuple[str, str]]:
    """What was collected so far, to be told by somebody else."""
    with _lock:
        if _collected is None:
            return []
        found = list(_collected)
        _collected.clear()
        return found


def tell() -> None:
    """Say what was collected so far: a line for those that differ in numbers alone."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for text, where in drain():
        kinds.setdefault(re.sub(r"\d[\d.,]*", "#", text.partition(": ")[0]), []).append((text, where))
    for told in kinds.values():
        text, where = told[0]
        number = len({place for _, place in told})
        if number == 1:
            logger.warning("%s: %s", where, text)
        else:
            logger.warning("%d scans alike: %s, e.g. %s", number, text, where)


@contextmanager
def collected() -> Iterator[None]:
    """Collect notices until `tell` or the end of the block."""
    global _collected
    if _collected is not None:  # an outer block tells
        yield
        return
    _collected = []
    try:
        yield
    finally:
        tell()
        _collected = None


def quiet_readers() -> None:
    """Keep what libraries warn of, scan by scan and without its name, from the user."""
    for name in READERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(READERS)})")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="numpy|mdae")
