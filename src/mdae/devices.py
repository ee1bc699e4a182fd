"""What this machine computes with: which devices have bfloat16, and memory that is kept."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Literal

from mdae.errors import ConfigError

if TYPE_CHECKING:
    import torch

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
