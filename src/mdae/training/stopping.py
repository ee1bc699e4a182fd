"""Ctrl-C and a cluster's SIGTERM end a run after the step under way, with a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from mdae.child import AGAIN_S


class StopRequest:
    """Within its block the first SIGINT or SIGTERM sets `requested`; a second one acts as usual.

    What follows within a second is the same request: a cluster signals every process, and torchrun passes it on.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._at > AGAIN_S:
            self._restore()
            signal.raise_signal(number)
        elif not self.requested:
            self.requested, self._at = True, now

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave, it takes
        self._before = {}
