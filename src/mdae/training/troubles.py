"""What a machine does to a run, in one line each: memory that ends, readers that are killed, processes that vanish."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mdae import errors
from mdae.errors import ConfigError, DataError, MDAEError, PartnerError
from mdae.training.config import PretrainConfig

GOES_ON = "the same command goes on from the last checkpoint"
MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUDNN_STATUS_ALLOC_FAILED")
SHARED = ("shared memory", "/torch_", "bus error", "unable to mmap", "unable to open shared")
READER = ("DataLoader worker", "Pin memory thread", "DataLoader timed out")
PARTNER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "tcpstore")


@contextmanager
def plain_errors(config: PretrainConfig) -> Iterator[None]:
    """What torch raises in the block for reasons that a user can mend, as an error that says how.

    Raises:
        ConfigError: the device's memory is too small.
        PartnerError: a loader process was killed, or another process of the run ended.
        DataError: /dev/shm is full.
    """
    try:
        yield
    except MDAEError as error:
        raise _of_reader(error) from error
    except (
        RuntimeError,
        OSError,
    ) as error:  # torch.OutOfMemoryError and torch.distributed's are RuntimeErrors
        plain = explain(error, config)
        if plain is None:
            raise
        raise plain from error


def explain(error: RuntimeError | OSError, config: PretrainConfig) -> MDAEError | None:
    """What is meant; None if it is not known."""
    text = f"{error} {error.__cause__ or ''}"  # a loader tells the worse half of it there
    if isinstance(error, torch.OutOfMemoryError) or _has(text, MEMORY):
        return _out_of_memory(config)
    if _has(text, SHARED):
        return DataError(
            "the shared memory by which loader processes hand over crops is full",
            where="/dev/shm",
            mend=f"enlarge it (docker --shm-size 8g), or use fewer --workers; {GOES_ON}",
        )
    if _has(text, READER):
        return PartnerError(
            "a loader process was killed, most likely for want of memory",
            where=config.out,
            mend=f"use fewer --workers; {GOES_ON}",
        )
    if isinstance(error, torch.distributed.DistError) or _has(text, PARTNER):
        return PartnerError(
            "another process of the run ended", where=config.out, mend=f"see what it said; {GOES_ON}"
        )
    return None


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part.lower() in text.lower() for part in parts)


def _out_of_memory(config: PretrainConfig) -> ConfigError:
    """The device holds less than a micro-batch takes."""
    now = max(1, config.accumulate)
    more = 2 * now
    fewer = f"--accumulate {more}" if config.batch % more == 0 else "a smaller --batch"
    return ConfigError(
        f"the device's memory does not hold micro-batches of --batch {config.batch} --accumulate {now}",
        where=f"--network {config.network}",
        mend=f"use {fewer} or a smaller --patch; {GOES_ON}",
    )


def _of_reader(error: MDAEError) -> MDAEError:
    """An error of ours that a loader process raised, without the traceback that the loader put before it."""
    found = re.findall(r"mdae\.errors\.(\w+): (.*?)$", error.what) if error.what.startswith("Caught ") else []
    if not found:
        return error
    kind, what = found[-1]
    return errors.from_dict({"kind": kind, "what": what, "where": None, "mend": None})
