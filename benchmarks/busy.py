"""Training steps beside a program that keeps one core busy: threads as they are chosen, against one and against all.

    python -m benchmarks.busy [--network tiny] [--side 32] [--batch 8]

A laptop is never idle. Each row is a process of its own that chooses its threads as `mdae pretrain`, `embed` and
`predict` do, or is told by OMP_NUM_THREADS; once on the machine as it is and once beside a busy loop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.common import save, show
from benchmarks.step import our_steps
from mdae.devices import keep_freed_memory, settle_threads

STEPS = 8
ROUNDS = 3
WAYS = {"chosen": None, "one": 1, "all": os.cpu_count()}


@contextmanager
def busy_core(busy: bool) -> Iterator[None]:
    """Another program that computes all the while, or nobody."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if loop:
            loop.kill()
            loop.wait()


def volumes_a_second(options: argparse.Namespace) -> float:
    """What this process reaches with the threads that it chooses or was given."""
    settle_threads()
    keep_freed_memory()
    side = options.side
    steps = our_steps(options.network, torch.randn(options.batch, 1, side, side, side))
    steps(2)
    started = time.perf_counter()
    steps(STEPS)
    return float(STEPS * options.batch / (time.perf_counter() - started))


def in_process(options: argparse.Namespace, threads: int | None) -> float:
    """The same in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    case = ["--network", options.network, "--side", str(options.side), "--batch", str(options.batch)]
    command = [sys.executable, "-m", "benchmarks.busy", *case, "--report"]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--report", action="store_true", help="volumes a second of this process alone")
    options = parser.parse_args()
    if options.report:
        print(volumes_a_second(options))
        return
    rows: list[dict[str, Any]] = []
    for busy in (False, True):
        with busy_core(busy):
            rounds = [
                {way: in_process(options, threads) for way, threads in WAYS.items()} for _ in range(ROUNDS)
            ]
        rates = {way: statistics.median(rates[way] for rates in rounds) for way in WAYS}
        best = max(rates["one"], rates["all"])
        rows.append(
            {"beside": "a busy core" if busy else "nothing", **rates, "chosen/best": rates["chosen"] / best}
        )
    show(rows)
    save("busy", rows)


if __name__ == "__main__":
    main()
