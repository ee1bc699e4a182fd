"""What is noted of a run of a sweep: that it was pre-trained and judged, or why it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdae.files import write_json
from mdae.sweep.spec import SweepRun

DONE, FAILED = "done.json", "failed.json"


def is_over(run: SweepRun, folder: Path) -> bool:
    """Whether a run has failed, or was pre-trained and put to all tasks of its sweep."""
    done = read_done(folder)
    judged = bool(done) and run.spec.trials.keys() <= tried(done)
    return judged or (folder / FAILED).exists()


def tried(done: Mapping[str, Any]) -> set[str]:
    """The tasks that a run was put to, by their hashes."""
    return {*done["tasks"], *done.get("failed_tasks", ())}


def read_done(folder: Path) -> dict[str, Any]:
    """What is noted of a run that was pre-trained, nothing if it was not.

    `tasks` are those that it was judged on, `failed_tasks` why others failed.
    """
    path = folder / DONE
    return dict(json.loads(path.read_text())) if path.exists() else {}


def outcome(run: SweepRun, folder: Path) -> dict[str, Any] | None:
    """What came of a run; None if it has not ended."""
    if not is_over(run, folder):
        return None
    failed = folder / FAILED
    return dict(json.loads(failed.read_text())) if failed.exists() else read_done(folder)


def forget_failure(folder: Path) -> None:
    """Let a run that failed, or tasks that did, be tried again."""
    (folder / FAILED).unlink(missing_ok=True)
    done = read_done(folder)
    if done.pop("failed_tasks", None):
        note(folder / DONE, done)


def note(path: Path, about: dict[str, Any]) -> None:
    """Write what is known of a run."""
    write_json(path, about, default=str)
