"""Checkpoints: written whole or not at all, the last two kept, read without unpickling anything but tensors."""

from __future__ import annotations

import logging
import pickle
import shutil
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mdae.errors import ModelError
from mdae.files import atomic_write

KEPT = 2
HELD = "held"  # the kind of those that are kept because the learning rate begins to fall there

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: bool = False) -> Path:
    """Write a state atomically, then drop all but the newest `KEPT`; one to keep stays under another name as well."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)
    if keep:
        with atomic_write(folder / f"{HELD}-{step:08d}.pt") as temporary:
            _copy(path, temporary)
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()
    return path


def forget_after(folder: Path, step: int) -> None:
    """Delete the checkpoints after a step that a run has gone back to, so that they are not the newest."""
    for path in folder.glob("step-*.pt"):
        if path.name > checkpoint_path(folder, step).name:
            path.unlink()


def _copy(path: Path, other: Path) -> None:
    """A second name for a file, or a second file where there are no such names."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


class CheckpointWriter:
    """Writes checkpoints beside training, one at a time; a state is copied first, and training goes on meanwhile.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[Path] | None = None

    def save(self, step: int, state: dict[str, Any], *, keep: bool = False) -> None:
        """Begin to write a state; waits for the one before, and raises what that one met with."""
        self.wait()
        copy = tree_map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)
        self.writing = self.pool.submit(save_checkpoint, self.folder, step, copy, keep=keep)

    def wait(self) -> None:
        """Until what was begun is written.

        Raises:
            DataError: it cannot be, for a full disk say; the checkpoints before are whole.
        """
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def look(self) -> None:
        """Raise what writing met with, if it has ended."""
        if self.writing is not None and self.writing.done():
            self.wait()

    def close(self) -> None:
        """Wait, without a word of what was met with: something else has gone wrong already, or nothing has."""
        self.pool.shutdown()


def newest_readable(
    folder: Path, *, device: torch.device, kind: str = "step"
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a kind that can be read, or None if there is none at all.

    Raises:
        ModelError: there are checkpoints and none of them can be read.
    """
    paths = sorted(folder.glob(f"{kind}-*.pt"), reverse=True)
    for path in paths:
        try:
            return path, load_checkpoint(path, device=device)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read (%s); trying the one before", path, type(error).__name__)
    if paths:
        raise ModelError(
            "no checkpoint there can be read", where=folder, mend="delete the run's folder to start again"
        )
    return None


def load_checkpoint(path: Path, *, device: torch.device) -> dict[str, Any]:
    """One checkpoint.

    Raises:
        ModelError: something else.
        OSError, RuntimeError, EOFError, UnpicklingError, BadZipFile: not there, or damaged.
    """
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise ModelError(
            "a checkpoint that this training loop did not write",
            where=path,
            mend="give another folder for the run",
        )
    return state
