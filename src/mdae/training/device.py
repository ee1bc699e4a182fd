"""Where and in what arithmetic a run computes."""

from __future__ import annotations

import ctypes
import sys

import torch
from lightning_fabric import Fabric

from mdae.errors import ConfigError
from mdae.training.config import PretrainConfig


def launch(config: PretrainConfig) -> Fabric:
    """Devices, precision and processes as configured; under torchrun or SLURM, as those launched them."""
    kind = config.accelerator
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no CUDA device is available", where="--accelerator cuda", mend="use --accelerator auto"
        )
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported()
    )
    devices = config.devices or (torch.cuda.device_count() if kind == "cuda" else 1)
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes never change
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if bf16 else "32-true",
    )
    fabric.launch()
    return fabric


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
