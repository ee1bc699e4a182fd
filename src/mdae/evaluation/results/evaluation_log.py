"""The book of what was scored on whom: a test set that is opened twice is no longer unseen, and results say so.

One small file a trial, named by what it was, so that the same evaluation again counts once and several processes may
write side by side.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdae.files import write_json

FOLDER = "trials"


def count_trial(
    folder: Path, *, task: str, encoder: str, subjects: Sequence[str], settings: dict[str, Any]
) -> int:
    """Note that an encoder is scored on the test subjects of a task, and return with how many settings it has been.

    Args:
        folder: of the results.
        task, encoder: their names.
        subjects: who is scored; another set of subjects begins another count.
        settings: all that could have been set otherwise, JSON-able; the same settings again are the same trial.
    """
    shelf = folder / FOLDER / _digest([task, encoder, sorted(subjects)])
    path = shelf / f"{_digest(settings)}.json"
    if not path.exists():
        about = {"task": task, "encoder": encoder, "num_subjects": len(subjects), "settings": settings}
        write_json(path, {"date": time.strftime("%Y-%m-%d"), **about})
    return len(list(shelf.glob("[!.]*.json")))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]
