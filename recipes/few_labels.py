"""What pre-training is worth with few labels, on real scans: Dice against the number of labelled subjects.

    python -m recipes.few_labels OUT --data Dataset004_Hippocampus --subjects subjects.csv
    python -m recipes.few_labels OUT --data ... --subjects ... --scored val --encoders search designs
    python -m recipes.few_labels OUT --data ... --subjects ... --encoders untrained chosen --seeds 5
    python -m recipes.few_labels_page

Each encoder is pre-trained on the volumes of train and unlabelled subjects. Test subjects are then segmented after 1,
2, 4, 8, 16, 32 and all labelled train subjects, five nested draws each, the same for all. Readouts: of the frozen maps
`alone`, `beside` place and intensities, and `fine-tuned` from there. Place and intensities without a network, and the
network untrained, are what an encoder has to beat. What is chosen (the background's offset, the step of fine-tuning)
is chosen on val subjects.

Any data set of one channel in nnU-Net's layout is studied by the same command. Evidence accumulates: finished rows
stand in a table of the data set's name in `recipes/results/few_labels/`, one for each encoder, seed, readout, number of
labels and draw, with the Dice of every test subject, and are never computed again. Killed and started again the command
goes on; a later one with more encoders, seeds, sizes or steps adds to the same table. Started several times at once, it
shares the work: each process takes the next encoder that no other has taken.

Whatever is searched is scored on val subjects alone, `--scored val`, in a table of its own; ten train subjects stand in
for val then. `chosen` is what was best there of each objective (`recipes.few_labels_encoders`); test subjects see that
and what was decided before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from filelock import FileLock
from tyro.conf import Positional

from mdae.claims import claimed
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sources import list_source
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.files import atomic_write
from mdae.report.labelled import contract_of
from mdae.tasks.nnunet_raw import channel_names, read_description
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from recipes.few_labels_encoders import DESIGNS, LANDSCAPE, OWN, UNTRAINED, chosen, options_of, tried

READOUTS: dict[str, dict[str, Any]] = {
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
FOLDERS = ("imagesTr", "imagesTs")
CHOOSING = "beside"  # the readout that settings are chosen by


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the store and the runs."""
    data: Path
    """Raw data set in nnU-Net's layout."""
    subjects: Path
    """Table with scan, subject and split: train, val, test, unlabelled. Maybe labelled, 1 or 0; else the files tell."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("untrained", "mdae", "mae")
    """Which; a later call adds others. search, designs and landscape are all that is tried, chosen what was best."""
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
    part: Literal["all", "store", "pretraining", "readouts"] = "all"
    """What to do; readouts are of encoders that are ready."""

    @property
    def table(self) -> Path:
        """Of the finished rows."""
        return table_of(self.data, self.scored)


def table_of(data: Path, scored: str) -> Path:
    """Of the finished rows of a data set, which is called by its folder's name without nnU-Net's number."""
    name = re.sub(r"^Dataset\d+_", "", data.resolve().name).lower()
    return RESULTS / (f"{name}.csv" if scored == "test" else f"{name}-val.csv")


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
        own = {"steps": self.steps, "lr": 2e-3} | options_of(self.name)
        return PretrainConfig(
            store=store_of(out, own.pop("volumes", 0)),
            out=self.folder(out),
            patch=(32, 32, 32),
            batch=8,
            accumulate=1,
            workers=0,
            precision="32",
            val_fraction=0.0,
            val_every=0,
            picture_every=0,
            seed=self.seed,
            **own,
        )


def names(config: StudyConfig) -> Iterator[str]:
    """Of all encoders that are asked for."""
    for name in config.encoders:
        if name == "search":
            yield from (one for base in OWN for one in tried(base))
        elif name == "chosen":
            rows = read_rows(table_of(config.data, "val"))
            rows = rows[(rows.readout == CHOOSING) & (rows.steps == config.steps)]
            yield from (chosen(base, rows) for base in OWN)
        else:
            yield from {"designs": DESIGNS, "landscape": LANDSCAPE}.get(name, (name,))


def encoders(config: StudyConfig) -> Iterator[Trained]:
    """All of them, seed by seed, so that a study that is looked at early has some of everything."""
    listed = list(dict.fromkeys(names(config)))
    for seed in range(config.seeds):
        for name in listed:
            yield Trained(name, seed, 0 if name.split(", ")[0] == UNTRAINED else config.steps)


def store_of(out: Path, volumes: int) -> Path:
    """The store of all volumes (0), or of so many of them."""
    return out / (f"store-{volumes}" if volumes else "store")


def scans_of(config: StudyConfig) -> pd.DataFrame:
    """The table of subjects, with `labelled` (1 or 0) and the image of every scan."""
    table, root = pd.read_csv(config.subjects, dtype=str), config.data.resolve()
    about = read_description(root)
    ending = str(about["file_ending"])
    if len(channel_names(about)) != 1:
        raise SystemExit(f"{root}: scans of one channel are wanted")
    if "labelled" not in table:
        there = [(root / "labelsTr" / f"{scan}{ending}").exists() for scan in table.scan]
        table["labelled"] = np.where(there, "1", "0")
    images = [[root / folder / f"{scan}_0000{ending}" for folder in FOLDERS] for scan in table.scan]
    return table.assign(path=[next((one for one in some if one.exists()), some[0]) for some in images])


def make_store(config: StudyConfig, volumes: int = 0) -> None:
    """Prepare the volumes of train and unlabelled subjects; no other is ever pre-trained on.

    Args:
        config: of the study.
        volumes: how many; 0 for all.
    """
    table = scans_of(config)
    table = table[table.split.isin(["train", "unlabelled"])]
    if volumes:
        table = table.sample(volumes, random_state=0)
    (contrast,) = channel_names(read_description(config.data))
    manifest = table[["path", "subject"]].assign(session=table.scan, contrast=contrast)
    store = store_of(config.out, volumes)
    listed = store.with_suffix(".csv")
    with FileLock(store.with_suffix(".lock")):
        with atomic_write(listed) as temporary:
            manifest.to_csv(temporary, index=False)
        preprocessing = contract_of(list_source(listed).entries)
        prepare(PrepareConfig(source=listed, store=store, preprocessing=preprocessing))


def make_split(config: StudyConfig) -> Path:
    """The parts of the labelled subjects, as `mdae evaluate` takes them."""
    table = scans_of(config)
    parts = table.loc[table.labelled == "1", ["subject", "split"]].drop_duplicates()
    if config.scored == "val":
        parts = parts[parts.split != "test"].replace({"split": {"val": "test"}})
        train = parts[parts.split == "train"]
        parts.loc[train.tail(min(STAND_INS, len(train) // 2)).index, "split"] = "val"
    path = config.out / f"split-{config.scored}.csv"
    with atomic_write(path) as temporary:
        parts.to_csv(temporary, index=False)
    return path


def fitting(config: StudyConfig) -> tuple[str, ...]:
    """The numbers of labelled subjects that there are so many of."""
    table = pd.read_csv(make_split(config), dtype=str)
    most = (table.split == "train").sum()
    return tuple(size for size in config.sizes if size == "all" or int(size) <= most)


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
        model = f"{trained.name}:{Trained(UNTRAINED, 0, 0).folder(config.out) / 'model'}"  # prepared alike
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
        workers=1,
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
        found = kept(read_out(config, trained, readout, sizes))
        with FileLock(config.out / "table.lock"):
            add_rows(table, found)


def taken(config: StudyConfig, trained: Trained, *, wait: bool = False) -> AbstractContextManager[bool]:
    """Whether an encoder is this process's within the block; another that is at it has it, or is waited for."""
    return claimed(config.out / "locks" / f"{trained.folder(config.out).name}.lock", wait=wait)


def each_taken(config: StudyConfig, listed: Iterable[Trained]) -> Iterator[Trained]:
    """Those of some encoders that no other process is at, each this process's until the next is asked for."""
    for trained in listed:
        with taken(config, trained) as mine:
            if mine:
                yield trained


def link(source: Path, place: Path) -> None:
    """Let a file or folder of another study be found in this one."""
    if not place.exists():
        place.symlink_to(source)


def read_all(
    config: StudyConfig,
    trained: Trained,
    table: Path,
    kept: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows,
) -> None:
    """`fill` with every readout that is asked for; baselines stand beside nothing, and have one."""
    for readout in ("beside",) if trained.name in BASELINES else config.readouts:
        fill(config, trained, readout, table, kept)


def study(config: StudyConfig, trained: Trained, table: Path) -> None:
    """What is left to do of one encoder, its rows in a table."""
    model = trained.folder(config.out) / "model"
    if config.part != "readouts" and trained.name not in BASELINES and not model.exists():
        if volumes := options_of(trained.name).get("volumes", 0):
            make_store(config, volumes)
        pretrain(trained.pretraining(config.out))
    if config.part != "pretraining" and (trained.name in BASELINES or model.exists()):
        read_all(config, trained, table)


def main() -> None:
    config = tyro.cli(StudyConfig, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    config = replace(config, sizes=fitting(config))
    if config.part != "readouts":
        make_store(config)
    if config.part == "store":
        return
    like = Trained(UNTRAINED, 0, 0)  # baselines are prepared as its scans are
    with taken(config, like, wait=True):
        study(replace(config, part="pretraining"), like, config.table)
    for trained in each_taken(config, (*(Trained(name, 0, 0) for name in BASELINES), *encoders(config))):
        study(config, trained, config.table)


if __name__ == "__main__":
    main()
