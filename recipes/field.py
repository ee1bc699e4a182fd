"""Every objective on an even field: one network, cohort and budget, five seeds, a seen and an unseen contrast.

    python -m recipes.field field

Each objective makes as many steps of as many volumes, and beside that, as a variant of its own, as many as fit into the
time of MDAE's on the machine at hand. Killed and started again it goes on; `field/sweep/index.html` shows the table. On
two cores of an AMD EPYC it takes more than an hour. On a GPU:
`--network base --patch 96 --spacing-mm 1.5 --steps 20000 --batch 16 --workers 1`.

Pre-training sees T1w and T2w of some made-up subjects, the probes tell lesions from none in T2w (seen) and FLAIR (never
seen) of others. Nothing is tuned per objective: learning rate, schedule, crop and batch are the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.objectives import seconds_a_step
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.objectives import OBJECTIVES
from mdae.sweep.config import SweepConfig
from mdae.sweep.work import sweep

FIXED, VARIABLE = {"p_min": 0.5, "p_max": 0.5}, {"p_min": 0.01, "p_max": 0.99}
ABLATIONS: dict[str, dict[str, Any]] = {
    "mdae, half masked": {"objective": "mdae", **FIXED},
    "mae, half masked": {"objective": "mae", **FIXED},
    "mae, variable ratio": {"objective": "mae", **VARIABLE},
}
SAME_TIME = 0.35  # a share of the steps: closer ones are not made again
UNTRAINED = {"untrained": {"objective": "mdae", "steps": 1, "lr": 1e-12}}


def make_data(out: Path, options: argparse.Namespace) -> None:
    """The two cohorts, the store, and the tasks."""
    same = {"spacing_mm": options.spacing_mm}
    synthesise(
        SynthConfig(
            out=out / "pretraining", subjects=options.pretraining, contrasts=("T1w", "T2w"), seed=1, **same
        )
    )
    synthesise(
        SynthConfig(out=out / "probing", subjects=options.probing, contrasts=("T2w", "FLAIR"), seed=2, **same)
    )
    spacing = (options.spacing_mm, options.spacing_mm, options.spacing_mm)
    prepare(
        PrepareConfig(
            source=out / "pretraining", store=out / "store", preprocessing=Preprocessing(spacing_mm=spacing)
        )
    )
    task = {"title": "lesions or none", "layout": "bids", "modalities": ["T2w", "FLAIR"]}
    label = {"column": "lesion", "positive": 1}
    (out / "lesions.yaml").write_text(yaml.safe_dump({"name": "lesions", **task, "label": label}))


def specification(options: argparse.Namespace, timed: dict[str, int]) -> dict[str, Any]:
    """The sweep.

    Args:
        options: of the command.
        timed: how many steps each objective makes in the time of MDAE's.
    """
    variants = {name: {"objective": name} for name in OBJECTIVES} | ABLATIONS
    equal_time = {
        f"{name}, equal time": {"objective": name, "steps": steps}
        for name, steps in timed.items()
        if abs(steps / options.steps - 1) > SAME_TIME
    }
    return {
        "base": {
            "store": "store",
            "network": options.network,
            "patch": [options.patch] * 3,
            "steps": options.steps,
            "batch": options.batch,
            "lr": options.lr,
            "val_fraction": 0.0,
            "val_every": 0,
            "picture_every": 0,
            "checkpoint_every": max(1, options.steps // 2),
        },
        "variants": {**variants, **equal_time, **UNTRAINED},
        "seeds": list(range(options.seeds)),
        "baseline": "mdae",
        "tasks": [{"task": "lesions.yaml", "data": "probing", "pool": options.pool, "repeats": 3}],
    }


def steps_in_equal_time(out: Path, options: argparse.Namespace) -> dict[str, int]:
    """How many steps each objective makes in the time of MDAE's; measured once, so that a second start has the same."""
    path = out / "steps.json"
    if not path.exists():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.workers))
        seconds = seconds_a_step(list(OBJECTIVES), options.network, options.patch, options.batch, rounds=9)
        median = {name: sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}
        found = {name: max(1, round(options.steps * median["mdae"] / s)) for name, s in median.items()}
        path.write_text(json.dumps({"seconds_a_step": median, "steps": found}, indent=1) + "\n")
    return dict(json.loads(path.read_text())["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--spacing-mm", type=float, default=3.0)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pretraining", type=int, default=60, help="subjects to pre-train on")
    parser.add_argument("--probing", type=int, default=120, help="subjects to probe")
    parser.add_argument("--pool", default="both", choices=("mean", "max", "both"))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    make_data(out, options)
    content = specification(options, steps_in_equal_time(out, options))
    (out / "field.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    print(sweep(SweepConfig(spec=out / "field.yaml", out=out / "sweep", workers=options.workers)))


if __name__ == "__main__":
    main()
