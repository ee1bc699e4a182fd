"""Step time and peak memory of every objective on one network, MDAE's against each.

    python -m benchmarks.objectives

A step is what `mdae pretrain` does on a batch that is on the device: draw, loss, backward pass, clipping, AdamW. Ratios
are medians over rounds in which all objectives take turns. MDAE should cost at most 5 % more than MAE.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch

from benchmarks.common import in_turn, median_ratio, own_peak_memory_gib, peak_memory_gib, save, show
from mdae.devices import keep_freed_memory
from mdae.networks import preset
from mdae.objectives import OBJECTIVES, build_objective
from mdae.seeding import torch_generator
from mdae.training.optimiser import build_optimiser

CASES = {"cpu": ("tiny", 48, 4), "cuda": ("resenc-l", 160, 4)}


def step_of(name: str, network: str, side: int, batch: int) -> Callable[[], None]:
    """One training step of an objective on made-up volumes, each call with other draws."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = preset(network).new(torch_generator(0, "weights"))
    objective = build_objective(name, unet, generator=torch_generator(0, "heads")).to(device)
    optimiser = build_optimiser(objective, lr=1e-3, weight_decay=0.01)
    volumes = torch.randn(batch, 1, side, side, side, generator=torch_generator(0, "volumes")).to(device)
    calls = 0

    def step() -> None:
        nonlocal calls
        samples = range(calls * batch, (calls + 1) * batch)
        calls += 1
        generators = [torch_generator(0, "corruption", sample, device=device) for sample in samples]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = objective(volumes, generators).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 12.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def seconds_a_step(
    names: Sequence[str], network: str, side: int, batch: int, *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round by objective."""
    return in_turn({name: step_of(name, network, side, batch) for name in names}, rounds=rounds, warmup=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", metavar="OBJECTIVE")
    parser.add_argument("--report-memory", action="store_true")
    options = parser.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        keep_freed_memory()
    network, side, batch = CASES[kind]
    if options.only:
        step = step_of(options.only, network, side, batch)
        step()
        step()
        print(own_peak_memory_gib())
        return
    seconds = seconds_a_step(list(OBJECTIVES), network, side, batch, rounds=options.rounds)
    rows = [
        {
            "objective": name,
            "step_s": statistics.median(taken),
            "by_mdae": median_ratio(seconds["mdae"], taken),
            "by_mae": median_ratio(seconds["mae"], taken),
            "peak_gib": peak_memory_gib(["-m", "benchmarks.objectives", "--only", name]),
        }
        for name, taken in seconds.items()
    ]
    show(rows)
    save(f"objectives-{kind}", rows)


if __name__ == "__main__":
    main()
