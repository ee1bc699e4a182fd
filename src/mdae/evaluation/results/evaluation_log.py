"""The evaluation log: what was scored on whom. A test set that is opened twice is no longer unseen, and results say so.

One small file a trial, named by what it was, so that the same evaluation again counts once and several processes may
write side by side. Weights are known by their hash: another name, pooling or folder makes no other encoder of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdae.files import write_json
from mdae.tasks.record import Task

FOLDER = "trials"


def question_of(task: Task) -> str:
    """What a task asks, whatever it is called: its kind, its label and the layout of its data."""
    label = None if task.label is None else asdict(task.label)
    return _digest([task.kind, task.layout, label])


def count_trial(
    folder: Path,
    *,
    question: str,
    weights: str,
    encoder: str,
    subjects: Sequence[str],
    settings: dict[str, Any],
) -> int:
    """Note that weights are scored on the test subjects of a task, and return with how many settings they have been.

    Trials count if they share a subject with this one: leaving somebody out makes no new test set.

    Args:
        folder: of the results.
        question: of the task (`question_of`).
        weights: what tells the encoder's weights from others'.
        encoder: its name, for a reader of the log.
        subjects: who is scored.
        settings: all that could have been set otherwise, JSON-able; the same settings again are the same trial.
    """
    shelf = folder / FOLDER / _digest([question, weights])
    names = sorted(set(subjects))
    path = shelf / f"{_digest([settings, names])}.json"
    if not path.exists():
        about = {"encoder": encoder, "weights": weights, "subjects": names, "settings": settings}
        write_json(path, {"date": time.strftime("%Y-%m-%d"), **about})
    tried = {_digest(settings)}
    for other in shelf.glob("[!.]*.json"):
        note = json.loads(other.read_text())
        if set(names) & set(note["subjects"]):
            tried.add(_digest(note["settings"]))
    return len(tried)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]
