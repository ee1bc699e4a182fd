"""What the benchmarks share: timing two things in turn, peak memory, the machine's limit, and a record of results."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")


def in_turn(
    functions: dict[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each function, run one after the other in every round, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(warmup + rounds):
        for name, function in functions.items():
            synchronise()
            started = time.perf_counter()
            function()
            synchronise()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(ours: list[float], peer: list[float]) -> float:
    """The median over rounds of peer's time by ours: above 1, ours is faster."""
    return statistics.median(p / o for o, p in zip(ours, peer, strict=True))


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_gib(arguments: list[str]) -> float:
    """Peak memory of this script run with `arguments`, in a process of its own."""
    run = [sys.executable, *arguments, "--report-memory"]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def own_peak_memory_gib() -> float:
    """Peak memory of this process: the GPU's where one is used, else resident, the interpreter's included."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had before this process was started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """What large matrix products reach here: the arithmetic limit in practice."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    seconds = in_turn({"matmul": lambda: torch.mm(a, a, out=out)}, rounds=10)["matmul"]
    return 2 * size**3 / min(seconds) / 1e12


def machine() -> dict[str, Any]:
    """The hardware and versions that a figure belongs to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(name: str, rows: list[dict[str, Any]]) -> None:
    """Write the results with their machine to `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(f"written: {path}")


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    for name in rows[0]:
        print(f"{name:>16}", end="")
    print()
    for row in rows:
        for value in row.values():
            print(f"{value:>16.4g}" if isinstance(value, float) else f"{value!s:>16}", end="")
        print()
