"""Commands of ours that run as processes of their own: they hear of signals once, and their errors come back whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from mdae import errors
from mdae.errors import MDAEError, PartnerError

ERROR_FILE, PARENT = "MDAE_ERROR_FILE", "MDAE_PARENT"
GRACE_S = 15.0  # that the others have to end by themselves once one has failed
LOOK_EVERY_S = 0.1
AGAIN_S = 1.0  # a second signal sooner than this is the first one, by another way


class Child:
    """A running command.

    It leads a process group of its own, so that Ctrl-C in a terminal reaches it once, from its parent.

    Args:
        command: to run.
        environ: its environment.
        name: for messages.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], name: str) -> None:
        self.name = name
        self.folder = tempfile.TemporaryDirectory(prefix="mdae-")
        self.said = Path(self.folder.name) / "error.json"
        own = {ERROR_FILE: str(self.said), PARENT: str(os.getpid())}
        self.process = subprocess.Popen(
            command, env={**environ, **own}, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def failure(self) -> BaseException | None:
        """Why it ended: None if all is well, KeyboardInterrupt if it was stopped."""
        code = self.process.returncode
        if code == 0:
            return None
        if self.said.exists():
            values = json.loads(self.said.read_text())
            if values["kind"] == "KeyboardInterrupt":
                return KeyboardInterrupt(values["what"])
            return errors.from_dict(values)
        if code == -signal.SIGKILL:
            return PartnerError(
                f"{self.name} was killed, most likely for want of memory",
                mend="use a smaller --batch, more --accumulate or fewer --workers; the same command goes on",
            )
        return PartnerError(f"{self.name} ended with status {code}", mend="see what it said before")

    def rank_of_cause(self) -> int:
        """How little its failure says of why all ended: a cause, a process that vanished, one that lost another."""
        if not self.said.exists():
            return 1 if self.process.returncode < 0 else 3
        return 2 if json.loads(self.said.read_text())["kind"] == PartnerError.__name__ else 0

    def close(self) -> None:
        """Forget what it said."""
        self.folder.cleanup()


def run_children(children: Sequence[Child]) -> None:
    """Wait for children that depend on each other: when one fails, all end; signals are passed on.

    Raises:
        MDAEError: what the first one to fail said.
        KeyboardInterrupt: they were asked to stop, and did.
    """
    first: Child | None = None
    deadline = float("inf")
    try:
        with Relay(children):
            while any(child.process.poll() is None for child in children):
                failed = [child for child in children if child.process.poll()]
                if failed and first is None:
                    first, deadline = failed[0], time.monotonic() + GRACE_S
                if time.monotonic() > deadline:
                    _end(children)
                time.sleep(LOOK_EVERY_S)
        ended = [child for child in (first, *children) if child is not None and child.process.returncode]
        causes = [(child.rank_of_cause(), cause) for child in ended if (cause := child.failure()) is not None]
    finally:
        _end(children)
        for child in children:
            child.close()
    if causes:
        raise min(causes, key=lambda pair: pair[0])[1]


def _end(children: Sequence[Child]) -> None:
    for child in children:
        child.send(signal.SIGKILL)
        child.process.wait()


class Relay:
    """Within the block SIGINT and SIGTERM go to the children, and once more is to be meant: it kills them."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, children: Sequence[Child]) -> None:
        self.children, self.asked_at = children, 0.0

    def __enter__(self) -> Relay:
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self.before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.asked_at and now - self.asked_at > AGAIN_S
        self.asked_at = self.asked_at or now
        for child in self.children:
            child.send(signal.SIGKILL if again else signal.SIGTERM)


def tell_parent(error: BaseException, line: str) -> bool:
    """Leave an error, which is this line, for the process that started this one; False if that has not asked."""
    path = os.environ.get(ERROR_FILE)
    if not path or not _started_by_own_kind():
        return False
    values = errors.to_dict(error) if isinstance(error, MDAEError) else {}
    values = values or {"kind": type(error).__name__, "what": line, "where": None, "mend": None}
    Path(path).write_text(json.dumps(values))
    return True


def _started_by_own_kind() -> bool:
    """Whether this very process is a `Child`; what it starts inherits its environment."""
    return os.environ.get(PARENT) == str(os.getppid())


def end_with_parent() -> None:
    """Stop, as by SIGTERM, when the process that started this one is gone, even if it was killed."""
    if not _started_by_own_kind():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
