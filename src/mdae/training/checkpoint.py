"""Checkpoints: written whole or not at all, the last two kept, read without unpickling anything but tensors."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mdae.errors import ModelError
from mdae.files import atomic_write

KEPT = 2

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a state atomically, then drop all but the newest `KEPT`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()
    return path


def load_latest(folder: Path, *, device: torch.device) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, or None if there is none at all.

    Raises:
        ModelError: there are checkpoints and none of them can be read.
    """
    paths = sorted(folder.glob("step-*.pt"), reverse=True)
    for path in paths:
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read (%s); trying the one before", path, type(error).__name__)
            continue
        if not isinstance(state, dict) or "fingerprint" not in state:
            raise ModelError(
                "a checkpoint that this training loop did not write",
                where=path,
                mend="give another folder for the run",
            )
        return path, state
    if paths:
        raise ModelError(
            "no checkpoint there can be read", where=folder, mend="delete the folder to start again"
        )
    return None
