"""What this machine computes with: which devices have bfloat16, and memory that is kept."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Literal

from mdae.errors import ConfigError

if TYPE_CHECKING:
    import torch

TRIAL_S = 0.4  # of timing each number of threads
FAVOUR = 1.05  # for all of them, which an idle machine gives back

Precision = Literal["auto", "32", "bf16"]


def has_bf16(device: torch.device) -> bool:
    """Whether a device's own arithmetic units take bfloat16; those that only imitate it are slower than float32."""
    import torch  # here, so that commands without a network start fast

    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def uses_bf16(device: torch.device, wanted: Precision = "auto") -> bool:
    """Whether networks run in bfloat16 there, decided here for every command.

    Args:
        device: where.
        wanted: "auto" for bfloat16 on GPUs that have it; a CPU takes it only when told.

    Raises:
        ConfigError: bfloat16 for a GPU that has none.
    """
    if wanted == "auto":
        return has_bf16(device)
    if wanted == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise ConfigError("this GPU has no bfloat16", where=str(device), mend="use --precision 32")
    return wanted == "bf16"


def settle_threads() -> int:
    """Choose torch's threads on a CPU by what they bring now, and return their number.

    Threads share each piece of work evenly and wait for the last: beside another program that keeps one core busy, two
    threads are slower than one. So a small convolution is timed with all of them, with one fewer and with one, and
    what is fastest is kept. Nothing is changed where OMP_NUM_THREADS says how many, or somebody has said it to torch.
    """
    import torch

    most = _most_threads()
    if most == 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    rates = {number: _rate(number) * (FAVOUR if number == most else 1.0) for number in {most, most - 1, 1}}
    best = max(rates, key=lambda number: rates[number])
    torch.set_num_threads(best)
    return best


@cache
def _most_threads() -> int:
    """The threads that torch had before any were chosen."""
    import torch

    return torch.get_num_threads()


def _rate(threads: int) -> float:
    """Small convolutions a second, forward and backward, over many slices of the system's scheduler."""
    import torch

    torch.set_num_threads(threads)
    x = torch.ones(2, 16, 24, 24, 24, requires_grad=True)
    weight = torch.ones(16, 16, 3, 3, 3, requires_grad=True)
    rounds, started = -1, time.perf_counter()
    while (passed := time.perf_counter() - started) < TRIAL_S or rounds < 1:
        torch.nn.functional.conv3d(x, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        rounds += 1
        if not rounds:
            started = time.perf_counter()  # the first one also sets up
    return rounds / passed


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system.

    Activations of many megabytes come and go at every step; by default each is a fresh mapping whose pages the
    system clears one by one, which costs up to a third of a step on a CPU. Elsewhere this does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in musl
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
