"""One training step on volumes of several contrasts against one of a single contrast, in turn in one process.

    python -m benchmarks.channels                      # on a CPU
    python -m benchmarks.channels --network tiny       # one network only

The steps are those of `benchmarks.step`, MDAE as `mdae pretrain` makes them; memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.common import in_turn, median_ratio, peak_memory_gib, save, show
from benchmarks.step import CPU_CASES, STEPS_A_ROUND, our_steps
from mdae.devices import keep_freed_memory

CHANNELS = (1, 4)


def measure(network: str, side: int, batch: int) -> dict[str, Any]:
    """One row: seconds a step and peak memory of each number of channels, and their ratio."""
    steps = {
        str(channels): our_steps(network, torch.randn(batch, channels, side, side, side))
        for channels in CHANNELS
    }
    seconds = in_turn({name: lambda own=own: own(STEPS_A_ROUND) for name, own in steps.items()}, rounds=5)
    where = ["-m", "benchmarks.step", "--only", "ours", "--network", network]
    where += ["--side", str(side), "--batch", str(batch)]
    few, many = map(str, CHANNELS)
    return {
        "network": network,
        "side": side,
        "batch": batch,
        **{f"{name}_s": sorted(own)[len(own) // 2] / STEPS_A_ROUND for name, own in seconds.items()},
        f"{many}/{few}": median_ratio(seconds[few], seconds[many]),
        **{f"{name}_gib": peak_memory_gib([*where, "--channels", name]) for name in steps},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network")
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for case in CPU_CASES:
        if options.network in (None, case[0]):
            rows.append(measure(*case))
            show(rows[-1:])
    if options.network is None:
        save("channels-cpu", rows)


if __name__ == "__main__":
    main()
