"""Every objective on an even field: one network, cohort and budget, five seeds, a seen and an unseen contrast.

    python -m recipes.field field --real path/to/ms-cross

Pre-training sees T1w and T2w of some made-up subjects. A linear readout of single voxels then segments lesions of
others in T2w (seen) and FLAIR (never seen), and a probe of pooled features tells who has any. Nothing is tuned per
objective: learning rate, schedule, crop, batch and, where there are any, blocks are the same for all. Each question
is a sweep of its own, with the baseline that answers it, and they share their runs:

- `field`: every objective against MDAE, and `gain` against the untrained network;
- `ratio`: fixed against variable mask ratios, and one corruption against two;
- `time`: as many steps as fit into the time of MDAE's on the machine at hand, where that is not as many anyway;
- `longer`: six times as many steps;
- `limits`: what may lift MDAE, one option at a time;
- `real`: lesions of two patients, of whom each is segmented by what was learned from the other.

Killed and started again it goes on; each question's `index.html` and `summary.csv` show its table. Two cores of an AMD
EPYC take four hours. On a GPU: `--network base --patch 96 --spacing-mm 1.5 --steps 20000 --batch 16 --workers 1`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from benchmarks.objectives import seconds_a_step
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.objectives import OBJECTIVES
from mdae.sweep.config import SweepConfig
from mdae.sweep.work import sweep

Options = dict[str, Any]
MASKED = (
    "mdae",
    "mae",
    "diffmae",
    "simmim",
)  # have blocks, whose published 16 voxels are half of a crop of 32
HALF, VARIABLE = {"p_min": 0.5, "p_max": 0.5}, {"p_min": 0.01, "p_max": 0.99}
UNTRAINED = {"objective": "mdae", "steps": 1, "lr": 1e-12}
SAME_TIME = 0.35  # a share of the steps: closer ones are not made again
LIMITS: dict[str, Options] = {
    "foreground": {"foreground": True},
    "noise as filling": {"fill": "noise"},
    "blocks of 4, 8, 16": {"edges": [4, 8, 16]},
    "times logit-normal": {"times.kind": "logit_normal"},
    "times near clean": {"times.kind": "low_noise"},
    "preconditioned": {"precondition": True},
    "gradient term": {"lambda_gradient": 0.1},
    "no time": {"conditioned": False},
    "averaged weights": {"ema": 0.98},
}


def make_data(out: Path, options: argparse.Namespace) -> None:
    """The two cohorts, the store, and the tasks."""
    same = {"spacing_mm": options.spacing_mm}
    pretraining, probing = out / "pretraining", out / "probing"
    synthesise(
        SynthConfig(out=pretraining, subjects=options.pretraining, contrasts=("T1w", "T2w"), seed=1, **same)
    )
    synthesise(SynthConfig(out=probing, subjects=options.probing, contrasts=("T2w", "FLAIR"), seed=2, **same))
    spacing = (options.spacing_mm, options.spacing_mm, options.spacing_mm)
    prepare(
        PrepareConfig(
            source=pretraining, store=out / "store", preprocessing=Preprocessing(spacing_mm=spacing)
        )
    )
    people = pd.read_csv(probing / "participants.tsv", sep="\t")
    with_lesions = people.participant_id[people.lesion == 1][: options.segmented]
    _write_table(
        out / "voxels.csv", probing, list(with_lesions), {name: f"_{name}" for name in ("T2w", "FLAIR")}
    )
    task = {"modalities": ["T2w", "FLAIR"]}
    pooled = {"layout": "bids", "kind": "classification", "label": {"column": "lesion", "positive": 1}}
    _write_task(out, "lesions", title="lesions or none", **pooled, **task)
    _write_task(out, "lesion-voxels", title="where lesions are", layout="table", kind="segmentation", **task)
    if options.real:
        names = {"T1w": "_T1w", "T2w": "_T2w", "FLAIR": "_FLAIR", "T1wCE": "_ce-gd_T1w"}
        patients = [path.name for path in sorted(options.real.glob("sub-*"))]
        _write_table(out / "real.csv", options.real.resolve(), patients, names)
        kind = {"layout": "table", "kind": "segmentation", "modalities": list(names)}
        _write_task(out, "real-lesion-voxels", title="where lesions of patients are", **kind)


def _write_task(out: Path, name: str, **record: Any) -> None:
    (out / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **record}))


def _write_table(path: Path, root: Path, subjects: list[str], names: dict[str, str]) -> None:
    """Scans and lesion masks of a BIDS folder, as the layout `table` takes them."""
    masks = root / "derivatives" / "lesions"
    rows = [
        {
            "path": root / subject / "anat" / f"{subject}{ending}.nii.gz",
            "subject": subject,
            "contrast": contrast,
            "mask": masks / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz",
        }
        for subject in subjects
        for contrast, ending in names.items()
    ]
    table = pd.DataFrame(rows)
    for column in ("path", "mask"):
        table[column] = [os.path.relpath(file, path.parent) for file in table[column]]
    table.to_csv(path, index=False)


def questions(options: argparse.Namespace, timed: dict[str, int]) -> dict[str, Options]:
    """The sweeps by name.

    Args:
        options: of the command.
        timed: how many steps each objective makes in the time of MDAE's.
    """
    block = {"block": [options.patch // 4] * 3}
    own: dict[str, Options] = {
        name: {"objective": name, **(block if name in MASKED else {})} for name in OBJECTIVES
    }
    ratios = {
        "mae, half masked": own["mae"] | HALF,
        "mae, variable ratio": own["mae"] | VARIABLE,
        "mdae, half masked": own["mdae"] | HALF,
    }
    equal_time = {
        f"{name}, equal time": {**own[name], "steps": steps}
        for name, steps in timed.items()
        if abs(steps / options.steps - 1) > SAME_TIME
    }
    every = {**own, **ratios, "untrained": UNTRAINED}
    masked = {name: every[name] for name in ("mdae", "mae", "dsm", *ratios)}
    long = {name: {**every[name], "steps": 6 * options.steps} for name in ("mdae", "mae", "dsm")}
    limits = {"mdae": own["mdae"], **{name: {**own["mdae"], **changes} for name, changes in LIMITS.items()}}
    pooled = {"task": "lesions.yaml", "data": "probing", "pool": "both", "repeats": 3}
    voxels = {"task": "lesion-voxels.yaml", "data": "voxels.csv", "protocol": "voxels"}
    real = {"task": "real-lesion-voxels.yaml", "data": "real.csv", "protocol": "voxels", "folds": 2}
    seeds, few = list(range(options.seeds)), list(range(min(3, options.seeds)))

    def of(variants: Options, baseline: str, *tasks: Options, seeds: list[int] = seeds) -> Options:
        return {
            "base": _shared(options),
            "variants": variants,
            "seeds": seeds,
            "baseline": baseline,
            "tasks": list(tasks),
        }

    known = {name: every[name] for name in ("mdae", "untrained")}
    found = {
        "field": of(every, "mdae", voxels, pooled),
        "gain": of(every, "untrained", voxels, pooled),
        "ratio": of(masked, "mae, half masked", voxels, pooled),
        "time": of({**known, **equal_time}, "mdae", voxels, pooled),
        "longer": of({"untrained": UNTRAINED, **long}, "untrained", voxels, seeds=few),
        "limits": of(limits, "mdae", voxels, seeds=few),
    }
    return found | ({"real": of(every, "untrained", real)} if options.real else {})


def _shared(options: argparse.Namespace) -> Options:
    """What all runs have in common."""
    return {
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
    parser.add_argument(
        "--probing", type=int, default=240, help="subjects to probe, half of them with lesions"
    )
    parser.add_argument(
        "--segmented", type=int, default=60, help="of those with lesions, how many to segment"
    )
    parser.add_argument(
        "--real", type=Path, help="BIDS folder of patients, with lesion masks among its derivatives"
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", nargs="+", help="questions to ask, all if left out")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    make_data(out, options)
    for name, content in questions(options, steps_in_equal_time(out, options)).items():
        if options.only and name not in options.only:
            continue
        spec = out / f"{name}.yaml"
        spec.write_text(yaml.safe_dump(content, sort_keys=False))
        print(sweep(SweepConfig(spec=spec, out=out / name, runs=out / "runs", workers=options.workers)))


if __name__ == "__main__":
    main()
