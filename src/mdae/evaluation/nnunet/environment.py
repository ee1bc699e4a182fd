"""nnU-Net within a folder of ours: its variables, its random numbers and what it prints stay there."""

from __future__ import annotations

import os
import random
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch

from mdae.data.workers import num_cores
from mdae.errors import DataError, TrainingError
from mdae.extras import require

AUGMENTING = "nnUNet_n_proc_DA"
MOST_PROCESSES = 8  # that prepare scans: each holds several copies of one
SHARED_MEMORY = Path("/dev/shm")
QUEUED = 24  # batches that processes which augment may hold in shared memory


def require_nnunet() -> None:
    """Raise `ConfigError` where nnU-Net is not installed."""
    require("nnunetv2", "trains segmentation")


def augmenting_processes(device: torch.device, batch_bytes: int) -> int:
    """How many processes augment; 0 for none, in this process: on a CPU, few cores, or little shared memory."""
    if said := os.environ.get(AUGMENTING):
        return int(said)
    room = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    if device.type == "cpu" or num_cores() < 4 or room < QUEUED * batch_bytes:
        return 0
    return min(12, num_cores() - 1)


@contextmanager
def nnunet_environment(folder: Path, processes: int) -> Iterator[None]:
    """Run nnU-Net in a folder; its lines go to nnunet.log there, and everything is as before afterwards.

    Args:
        folder: for its raw, preprocessed and trained data.
        processes: that augment; 0 for none.

    Raises:
        TrainingError: the device's memory is too small.
        DataError: nnU-Net gave up, in a process that was killed for instance.
    """
    places = {f"nnUNet_{name}": str(folder.absolute() / name) for name in ("raw", "preprocessed", "results")}
    variables = {
        **places,
        AUGMENTING: str(processes),
        "nnUNet_wandb_enabled": "0",
        "OMP_NUM_THREADS": "1",  # of the processes that it starts
    }
    before = {name: os.environ.get(name) for name in variables}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # nnU-Net draws from them
    for place in places.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    os.environ.update(variables)
    try:
        with (
            (folder / "nnunet.log").open("a", buffering=1) as log,
            redirect_stdout(log),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device's memory does not hold a batch",
            mend="use a smaller --segment.patch or --segment.batch",
        ) from error
    except (RuntimeError, AssertionError) as error:  # all that nnU-Net raises itself
        raise DataError(
            f"nnU-Net gave up ({type(error).__name__}: {error})",
            where=folder / "nnunet.log",
            mend="see what it says there; fewer --workers need less memory",
        ) from error
    finally:
        sys.stdout.flush()
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
