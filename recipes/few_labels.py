"""What pre-training is worth with few labels, on real scans: Dice against the number of labelled subjects.

    python -m recipes.few_labels OUT --data Dataset004_Hippocampus --subjects subjects.csv
    python -m recipes.few_labels OUT --data ... --subjects ... --scored val --encoders 'mdae, block 4' ...
    python -m recipes.few_labels_page

Each encoder is pre-trained on the volumes of train and unlabelled subjects. Test subjects are then segmented after 1,
2, 4, 8, 16, 32 and all labelled train subjects, five nested draws each, the same for all. Readouts: of the frozen maps
`alone`, `beside` place and intensities, and `fine-tuned` from there. Place and intensities without a network, and the
network untrained, are what an encoder has to beat. What is chosen (the background's offset, the step of fine-tuning)
is chosen on val subjects.

Evidence accumulates: finished rows stand in `recipes/results/few_labels/hippocampus.csv`, one for each encoder, seed,
readout, number of labels and draw, with the Dice of every test subject, and are never computed again. Killed and
started again the command goes on; a later one with more encoders, seeds, sizes or steps adds to the same table. `--part
pretraining` and `--part readouts` can run side by side, on a core each.

Whatever is searched (`SEARCH`) is scored on val subjects alone, `--scored val`, in a table of its own; ten train
subjects stand in for val then. Test subjects see what was decided before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tyro
from tyro.conf import Positional

from mdae.data.intensity import ZScore
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.files import atomic_write
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain

Options = dict[str, Any]
BLOCK = ("block=8,8,8",)  # a quarter of a crop; the published 16 would be half of it
READOUTS: dict[str, Options] = {
    "alone": {"protocol": "voxels"},
    "beside": {"protocol": "voxels", "with_position": True},
    "fine-tuned": {"protocol": "segment"},
}
BASELINES = ("place", "intensities", "position")  # the last is both
RESULTS = Path(__file__).parent / "results" / "few_labels"
KEY = ["version", "encoder", "steps", "seed", "readout", "labelled", "draw"]
VERSION = (
    2  # of the readout; 1 had 700 points a label and place to the second degree. Others' rows are never mixed
)
STAND_INS = 10  # train subjects that choose the background's offset where val subjects are scored
ENCODERS: dict[str, Options] = {
    "untrained": {"objective": "mdae", "steps": 1, "lr": 1e-12},
    "mdae": {"objective": "mdae", "settings": BLOCK},
    "mae": {"objective": "mae", "settings": BLOCK},
    "dsm": {"objective": "dsm"},
    "mdae-masked": {"objective": "mdae-masked", "settings": BLOCK},
    "mae, variable ratio": {"objective": "mae", "settings": (*BLOCK, "p_min=0.01", "p_max=0.99")},
    "diffmae": {"objective": "diffmae", "settings": BLOCK},
    "spark": {"objective": "spark"},
    "voco": {"objective": "voco"},
    "simmim": {"objective": "simmim"},
    "simclr": {"objective": "simclr"},
}
SEARCH: dict[
    str, Options
] = {  # for every objective that has it; the values of `ENCODERS` are block 8 and lr 2e-3
    "block 4": {"settings": ("block=4,4,4",)},
    "block 16": {"settings": ("block=16,16,16",)},
    "lr 1e-3": {"lr": 1e-3},
    "lr 4e-3": {"lr": 4e-3},
}
DESIGNS: dict[str, tuple[str, ...]] = {  # of MDAE, one change each
    "noise to 1": ("corruption.schedule.sigma_max=1",),
    "noise to 15": ("corruption.schedule.sigma_max=15",),
    "variance preserving": ("corruption.schedule.kind=vp",),
    "flow": ("corruption.schedule.kind=flow",),
    "ratio 75 %": ("p_min=0.75", "p_max=0.75"),
    "low noise": ("corruption.times.kind=low_noise",),
    "foreground": ("foreground=true",),
    "gradient": ("lambda_gradient=0.1",),
}
ENCODERS |= {
    f"{name}, {what}": ENCODERS[name] | own for name in ("mdae", "mae") for what, own in SEARCH.items()
}
ENCODERS |= {
    f"mdae, {what}": {"objective": "mdae", "settings": (*BLOCK, *own)} for what, own in DESIGNS.items()
}
WHOLE = Preprocessing(
    crop="none", intensity=ZScore("box")
)  # crops of one structure: there is no head to look for


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the store and the runs."""
    data: Path
    """Raw data set in nnU-Net's layout."""
    subjects: Path
    """Table with scan, subject and split: train, val, test, unlabelled."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("untrained", "mdae", "mae")
    """Which; a later call adds others."""
    seeds: int = 3
    """Of pre-training."""
    readouts: tuple[str, ...] = ("alone", "beside")
    """How test subjects are segmented: alone, beside, fine-tuned."""
    sizes: tuple[str, ...] = ("1", "2", "4", "8", "16", "32", "all")
    """Numbers of labelled subjects."""
    draws: int = 5
    """Of each."""
    scored: Literal["test", "val"] = "test"
    """Whose segmentations are scored: test subjects, or val subjects where something is chosen."""
    part: Literal["all", "pretraining", "readouts"] = "all"
    """What to do; readouts are of encoders that are ready."""

    @property
    def table(self) -> Path:
        """Of the finished rows."""
        return RESULTS / ("hippocampus.csv" if self.scored == "test" else "hippocampus-val.csv")


@dataclass(frozen=True)
class Trained:
    """An encoder with a seed.

    Attributes:
        name: of its options.
        seed: of pre-training.
        steps: of it.
    """

    name: str
    seed: int
    steps: int

    def folder(self, out: Path) -> Path:
        """Of its run."""
        return out / "runs" / f"{self.name.replace(', ', '-').replace(' ', '-')}-{self.steps}-{self.seed}"

    def pretraining(self, out: Path) -> PretrainConfig:
        """What is run."""
        own = {"steps": self.steps, "lr": 2e-3} | ENCODERS[self.name]
        return PretrainConfig(
            store=out / "store",
            out=self.folder(out),
            patch=(32, 32, 32),
            batch=8,
            val_fraction=0.0,
            val_every=0,
            picture_every=0,
            checkpoint_every=250,
            seed=self.seed,
            **own,
        )


def encoders(config: StudyConfig) -> Iterator[Trained]:
    """All of them, seed by seed, so that a study that is looked at early has some of everything."""
    for seed in range(config.seeds):
        for name in config.encoders:
            yield Trained(name, seed, 0 if name == "untrained" else config.steps)


def make_store(config: StudyConfig) -> None:
    """Prepare the volumes of train and unlabelled subjects; no other is ever pre-trained on."""
    table = pd.read_csv(config.subjects, dtype=str)
    table = table[table.split.isin(["train", "unlabelled"])]
    folder = {"1": "imagesTr", "0": "imagesTs"}
    paths = [
        config.data.resolve() / folder[row.labelled] / f"{row.scan}_0000.nii.gz" for row in table.itertuples()
    ]
    manifest = pd.DataFrame(
        {"path": paths, "subject": table.subject, "session": table.scan, "contrast": "T1w"}
    )
    with atomic_write(config.out / "pretraining.csv") as temporary:
        manifest.to_csv(temporary, index=False)
    prepare(
        PrepareConfig(source=config.out / "pretraining.csv", store=config.out / "store", preprocessing=WHOLE)
    )


def make_split(config: StudyConfig) -> Path:
    """The parts of the labelled subjects, as `mdae evaluate` takes them."""
    table = pd.read_csv(config.subjects, dtype=str)
    parts = table.loc[table.labelled == "1", ["subject", "split"]].drop_duplicates()
    if config.scored == "val":
        parts = parts[parts.split != "test"].replace({"split": {"val": "test"}})
        stand_ins = parts[parts.split == "train"].tail(STAND_INS).index
        parts.loc[stand_ins, "split"] = "val"
    path = config.out / f"split-{config.scored}.csv"
    with atomic_write(path) as temporary:
        parts.to_csv(temporary, index=False)
    return path


def read_rows(path: Path) -> pd.DataFrame:
    """The finished rows; none if there is no such table."""
    return pd.read_csv(path, dtype={"labelled": str}) if path.exists() else pd.DataFrame(columns=KEY)


def missing(config: StudyConfig, done: pd.DataFrame, trained: Trained, readout: str) -> tuple[str, ...]:
    """The numbers of labelled subjects of which not every draw is in the table."""
    here = (
        (done.version == VERSION)
        & (done.encoder == trained.name)
        & (done.steps == trained.steps)
        & (done.seed == trained.seed)
    )
    counted = done[here & (done.readout == readout)].groupby("labelled").size()
    wanted = {size: 1 if size == "all" else config.draws for size in config.sizes}
    return tuple(size for size in config.sizes if counted.get(size, 0) < wanted[size])


def read_out(config: StudyConfig, trained: Trained, readout: str, sizes: tuple[str, ...]) -> pd.DataFrame:
    """Segment the test subjects; the rows of the table.

    Args:
        config: of the study.
        trained: whose maps; a baseline's name for place and intensities instead.
        readout: one of `READOUTS`.
        sizes: numbers of labelled subjects.
    """
    model = str(trained.folder(config.out) / "model")
    if trained.name in BASELINES:
        model = f"{trained.name}:{Trained('untrained', 0, 0).folder(config.out) / 'model'}"  # prepared alike
    trial = EvaluateConfig(
        encoder=model,
        task=(str(config.data),),
        subjects=config.subjects,
        split=make_split(config),
        train_sizes=sizes,
        draws=config.draws,
        dice_only=True,
        out=config.out / "results",
        name=trained.folder(config.out).name,
        **READOUTS[readout],
    )
    (found,) = evaluate(trial)
    (result,) = found.results
    rows = []
    ordered = sorted(sizes, key=lambda size: math.inf if size == "all" else int(size))
    for size, point in zip(ordered, result.curve, strict=True):
        for draw, dice in enumerate(point.values["dice"]):
            key = (VERSION, trained.name, trained.steps, trained.seed, readout, size, draw)
            own = dict(zip(result.subjects, dice, strict=True))
            rows.append(dict(zip(KEY, key, strict=True)) | {"dice": sum(dice) / len(dice)} | own)
    return pd.DataFrame(rows)


def add_rows(path: Path, rows: pd.DataFrame) -> None:
    """Append what the table does not have."""
    both = pd.concat([read_rows(path), rows.round(4)]).drop_duplicates(KEY, keep="first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        both.sort_values(KEY).to_csv(temporary, index=False)


def fill(
    config: StudyConfig,
    trained: Trained,
    readout: str,
    table: Path,
    kept: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows,
) -> None:
    """Read out what a table does not have of an encoder, and add it.

    Args:
        config, trained, readout: as in `read_out`.
        table: of the finished rows.
        kept: rows as `read_out` has them to those of the table.
    """
    if sizes := missing(config, read_rows(table), trained, readout):
        print(f"{trained.name}, seed {trained.seed}, {readout}: {' '.join(sizes)}", flush=True)
        add_rows(table, kept(read_out(config, trained, readout, sizes)))


def main() -> None:
    config = tyro.cli(StudyConfig, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    if config.part != "readouts":
        make_store(config)
        for trained in encoders(config):
            pretrain(trained.pretraining(config.out))
    if config.part != "pretraining":
        baselines = [Trained(name, 0, 0) for name in BASELINES]
        for trained in (*baselines, *encoders(config)):
            if trained.name not in BASELINES and not (trained.folder(config.out) / "model").exists():
                continue
            for readout in config.readouts if trained.name not in BASELINES else ("beside",):
                fill(config, trained, readout, config.table)


if __name__ == "__main__":
    main()
