"""What is warned of while a scan is prepared, kept beside what is said of the scan."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Ear(logging.Handler):
    """Keeps the warnings of one thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.notes = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.notes.append(record.getMessage())


@contextmanager
def hearing() -> Iterator[list[str]]:
    """The warnings of this package that this thread gives within the block; they are logged as well."""
    ear, logger = _Ear(), logging.getLogger("mdae")
    logger.addHandler(ear)
    try:
        yield ear.notes
    finally:
        logger.removeHandler(ear)
