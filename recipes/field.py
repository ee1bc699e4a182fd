"""Every objective on an even field: one network, cohort and budget, five seeds, a seen and an unseen contrast.

    python -m recipes.field field --real path/to/ms-cross

Pre-training sees T1w and T2w of some made-up subjects. A linear readout of single voxels then segments lesions of
others in T2w (seen) and FLAIR (never seen), and a probe of pooled features tells who has any. Nothing is tuned per
objective: learning rate, schedule, crop, batch and, where there are any, blocks are the same for all. Each question
is a sweep of its own, with the baseline that answers it, and they share their runs:

- `field`: every objective against MDAE, and `gain` against the untrained network;
- `ratio`: fixed against variable mask ratios, and one corruption against two;
- `time`: as many steps as fit into the time of MDAE's on the machine at hand, where that is not as many anyway;
- `limits`: what may lift MDAE, one option at a time, three seeds;
- `real`: lesions of two patients, of whom each is segmented by what was learned from the other.

Killed and started again it goes on; each question's `index.html` and `summary.csv` show its table. Two cores of an AMD
EPYC take two and a half hours. On a GPU: `--network base --patch 96 --spacing-mm 1.5 --steps 20000 --batch 16
--workers 1`.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
import yaml
from tyro.conf import Positional

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.errors import ConfigError, DataError
from mdae.files import write_json
from mdae.objectives import OBJECTIVES
from mdae.sweep.config import SweepConfig
from mdae.sweep.spec import read_spec
from mdae.sweep.work import read_done, sweep

Options = dict[str, Any]
MASKED = ("mdae", "mae", "diffmae", "simmim")  # the published block of 16 is half of a crop of 32
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


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """The size of the field."""

    out: Positional[Path]
    """Folder of the data, the runs and the tables."""
    network: str = "tiny"
    """Preset."""
    spacing_mm: float = 3.0
    """Of the cohorts and the store."""
    patch: int = 32
    """Side of a crop."""
    batch: int = 8
    """Volumes a step."""
    steps: int = 250
    """Of pre-training."""
    lr: float = 2e-3
    """Learning rate."""
    seeds: int = 5
    """Of pre-training."""
    pretraining: int = 60
    """Subjects to pre-train on."""
    probing: int = 160
    """Subjects to probe, half of them with lesions."""
    segmented: int = 60
    """Of those with lesions, how many are segmented."""
    real: Path | None = None
    """BIDS folder of patients, with lesion masks among its derivatives."""
    workers: int = 2
    """Runs at a time."""


def make_data(config: FieldConfig) -> None:
    """The two cohorts, the store, and the tasks."""
    out, mm = config.out, config.spacing_mm
    pretraining, probing = out / "pretraining", out / "probing"
    for folder, subjects, contrasts, seed in (
        (pretraining, config.pretraining, ("T1w", "T2w"), 1),
        (probing, config.probing, ("T2w", "FLAIR"), 2),
    ):
        cohort = SynthConfig(out=folder, subjects=subjects, contrasts=contrasts, spacing_mm=mm, seed=seed)
        synthesise(cohort)
    preprocessing = Preprocessing(spacing_mm=(mm, mm, mm))
    prepare(PrepareConfig(source=pretraining, store=out / "store", preprocessing=preprocessing))
    people = pd.read_csv(probing / "participants.tsv", sep="\t")
    with_lesions = people.participant_id[people.lesion == 1][: config.segmented]
    _write_table(out / "voxels.csv", probing, list(with_lesions), {"T2w": "_T2w", "FLAIR": "_FLAIR"})
    task = {"contrasts": ["T2w", "FLAIR"]}
    pooled = {"layout": "bids", "kind": "classification", "label": {"column": "lesion", "positive": 1}}
    _write_task(out, "lesions", title="lesions or none", **pooled, **task)
    _write_task(out, "lesion-voxels", title="where lesions are", layout="table", kind="segmentation", **task)
    if config.real:
        names = {"T1w": "_T1w", "T2w": "_T2w", "FLAIR": "_FLAIR", "T1wCE": "_ce-gd_T1w"}
        patients = [path.name for path in sorted(config.real.glob("sub-*"))]
        _write_table(out / "real.csv", config.real.resolve(), patients, names)
        kind = {"layout": "table", "kind": "segmentation", "contrasts": list(names)}
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


def questions(config: FieldConfig, timed: dict[str, int]) -> dict[str, Options]:
    """The sweeps by name.

    Args:
        config: of the field.
        timed: how many steps each objective makes in the time of MDAE's, where that is known.
    """
    block = {"block": [min(16, config.patch // 4)] * 3}
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
        if abs(steps / config.steps - 1) > SAME_TIME
    }
    every = {**own, **ratios, "untrained": UNTRAINED}
    masked = {name: every[name] for name in ("mdae", "mae", "dsm", *ratios)}
    limits = {"mdae": own["mdae"], **{name: {**own["mdae"], **changes} for name, changes in LIMITS.items()}}
    pooled = {"task": "lesions.yaml", "data": "probing", "pool": "both", "repeats": 3}
    voxels = {"task": "lesion-voxels.yaml", "data": "voxels.csv", "protocol": "voxels"}
    real = {"task": "real-lesion-voxels.yaml", "data": "real.csv", "protocol": "voxels", "folds": 2}
    seeds, few = list(range(config.seeds)), list(range(min(3, config.seeds)))

    def of(variants: Options, baseline: str, *tasks: Options, seeds: list[int] = seeds) -> Options:
        return {
            "base": _shared(config),
            "variants": variants,
            "seeds": seeds,
            "baseline": baseline,
            "tasks": list(tasks),
        }

    known = {name: every[name] for name in ("mdae", "untrained")}
    return {
        "field": of(every, "mdae", voxels, pooled),
        "gain": of(every, "untrained", voxels, pooled),
        "ratio": of(masked, "mae, half masked", voxels, pooled),
        "time": of({**known, **equal_time}, "mdae", voxels, pooled),
        "limits": of(limits, "mdae", voxels, seeds=few),
        **({"real": of(every, "untrained", real)} if config.real else {}),
    }


def _shared(config: FieldConfig) -> Options:
    """What all runs have in common."""
    return {
        "store": "store",
        "network": config.network,
        "patch": [config.patch] * 3,
        "steps": config.steps,
        "batch": config.batch,
        "lr": config.lr,
        "val_fraction": 0.0,
        "val_every": 0,
        "picture_every": 0,
        "checkpoint_every": max(1, config.steps // 2),
    }


def steps_in_equal_time(config: FieldConfig) -> dict[str, int]:
    """How many steps each objective makes in the time of MDAE's, by the runs of the field; found once and kept."""
    path = config.out / "steps.json"
    if not path.exists():
        taken: dict[str, list[float]] = {}
        for run in read_spec(config.out / "field.yaml").runs():
            seconds = read_done(config.out / "runs" / run.key).get("pretraining_s")
            if run.variant in OBJECTIVES and seconds:  # none of a run that was interrupted
                taken.setdefault(run.variant, []).append(seconds / config.steps)
        if "mdae" not in taken:
            raise DataError(
                "every run of mdae was interrupted, so its time is unknown",
                where=config.out,
                mend="remove one from runs/",
            )
        median = {name: statistics.median(own) for name, own in taken.items()}
        found = {name: max(1, round(config.steps * median["mdae"] / own)) for name, own in median.items()}
        write_json(path, {"seconds_a_step": median, "steps": found})
    return dict(json.loads(path.read_text())["steps"])


def require_same_size(config: FieldConfig) -> None:
    """Raise `ConfigError` if the folder holds a field of another size, whose runs would be taken for this one's."""
    path = config.out / "config.json"
    now = json.loads(json.dumps(asdict(config), default=str))
    before = json.loads(path.read_text()) if path.exists() else now
    free = ("out", "workers", "real")
    if changed := [name for name in now if name not in free and now[name] != before.get(name)]:
        said = ", ".join(f"{name} was {before.get(name)}" for name in changed)
        raise ConfigError(f"a field of another size: {said}", where=path, mend="give another folder")
    write_json(path, now)


def ask(config: FieldConfig, name: str, question: Options) -> None:
    """Work through a sweep."""
    spec, out = config.out / f"{name}.yaml", config.out / name
    spec.write_text(yaml.safe_dump(question, sort_keys=False))
    print(sweep(SweepConfig(spec=spec, out=out, runs=config.out / "runs", workers=config.workers)))


def main() -> None:
    config = tyro.cli(FieldConfig, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    require_same_size(config)
    make_data(config)
    ask(config, "field", questions(config, {})["field"])
    for name, question in questions(config, steps_in_equal_time(config)).items():
        ask(config, name, question)


if __name__ == "__main__":
    main()
