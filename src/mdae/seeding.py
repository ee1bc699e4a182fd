"""Randomness by counter: a draw depends on what it is for, never on who makes it or what was drawn before.

Every random number in the package comes from a generator keyed by `(seed, purpose, counters...)`. Training has
no hidden random state: sample number g of a run is the same on any number of workers, ranks and restarts.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from mdae.errors import ConfigError

if TYPE_CHECKING:
    import torch


def require_seed(seed: int) -> None:
    """Raise `ConfigError` for a number that seeds nothing."""
    if seed < 0:
        raise ConfigError(f"seed is {seed}", where="--seed", mend="give 0 or more")


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit key for one stream of random numbers; different purposes or counters never share one.

    Raises:
        ConfigError: a negative seed.
    """
    require_seed(seed)
    words = [seed, zlib.crc32(purpose.encode()), *counters]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator for one stream."""
    return np.random.default_rng(key(seed, purpose, *counters))


def name_and_seed(words: str) -> tuple[str, int]:
    """NAME and 1 of NAME:1; NAME and 0 of NAME alone."""
    name, colon, last = words.rpartition(":")
    return (name, int(last)) if colon and last.isdecimal() else (words, 0)


def torch_generator(
    seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for one stream, on the device where the numbers are wanted."""
    import torch  # here, so that commands without a network start fast

    return torch.Generator(device).manual_seed(key(seed, purpose, *counters))
