"""A line that says how far long work is, how fast, and when it ends."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mdae.notices import tell

PLAIN_EVERY_S = 20.0


class Progress:
    """A live bar on a terminal, a line every 20 seconds in a log file.

    Args:
        title: what is being done.
        total: how many there are.
        done: how many an earlier start has done.
        unit: what is counted, for the rate; None if the notes give one.
        shown: False for silence, as on all ranks but one.
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, unit: str | None = "scans", shown: bool = True
    ) -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self.first = done
        self.shown = shown
        self.live = shown and sys.stderr.isatty()
        self.started = self.printed = time.monotonic()
        self.bar = RichProgress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, error, trace)
        tell()

    def restart(self) -> None:
        """The same number again, of the next part: its rate and its end are its own."""
        self.done = self.first = 0
        self.started = time.monotonic()

    def advance(self, note: str = "") -> None:
        """One more is done."""
        self.update(self.done + 1, note)

    def update(self, done: int, note: str = "") -> None:
        """So many are done."""
        self.done = done
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        if self.unit:
            rate = f"{(done - self.first) / seconds:.2f} {self.unit}/s"
            note = f"{rate} · {note}" if note else rate
        self.bar.update(self.task, completed=done, note=note)
        if self.shown and not self.live and (now - self.printed > PLAIN_EVERY_S or done == self.total):
            self.printed = now
            left = seconds / max(1, done - self.first) * (self.total - done)
            print(
                f"{self.title} {done}/{self.total} · {note} · {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
