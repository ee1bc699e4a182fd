"""Lung nodules in CT: what pre-training tells of them, beside their diameter, and how few masks segment them.

    python -m recipes.lidc OUT --data Dataset005_Nodules
    python -m recipes.lidc_page

The data set is one of nnU-Net's, with a table `labels.csv` of nodules: scan, subject, split (train, val, test by
patient), diameter_mm, malignant, solid, spiculation. Encoders are pre-trained on the crops of train patients. A crop
is as large as its nodule, so that diameter alone tells most of malignancy: what an encoder has to beat are the
diameter, the crop's volume, a histogram, the network untrained and a small CNN from scratch, and the question that is
not settled by size is that of the nodules of 8 to 12 mm.

*Labels* are told from features of the middle window, by the linear probe of `mdae evaluate`: fitted on train patients,
its penalty chosen on val patients, scored on test patients once. The stratum has few of these, so that it is
cross-validated by patient as well. *Masks* of test nodules are segmented after a few labelled patients, as in
`recipes.few_labels`.

Killed and started again it goes on: runs, features and rows of masks are never computed twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from tyro.conf import Positional

from mdae.data.catalogue import ScanEntry
from mdae.data.intensity import Window
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.files import atomic_write
from mdae.tasks.layouts import read_cases
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from recipes import few_labels
from recipes.few_labels import StudyConfig, Trained, each_taken, read_all
from recipes.lidc_labels import (
    BY_CNN,
    CNN,
    KEY,
    QUESTIONS,
    asked,
    asked_of_cnn,
    features_of,
    sizes_of,
    summary,
)

Asker = Callable[[str], pd.Series]
RESULTS = Path(__file__).parent / "results" / "lidc"
PATCH = (32, 32, 16)  # mm: half of the crops are less than 8 mm deep
MASK_BASELINES = ("place", "position")  # the last has intensities too
CUBES, BLOCK = "block=8,8,8", "block=8,8,4"  # of `recipes.few_labels`, and of these
# Fixed for all crops, for what is soft tissue or ground glass is told by its HU. Mean and deviation of train crops.
NODULES = Preprocessing(
    anatomy="none",
    crop="none",
    intensity=Window(-1000.0, 400.0, mean=-600.0, std=400.0),
    min_slices=2,
)


@dataclass(frozen=True, kw_only=True)
class LidcConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the store, the runs and the features."""
    data: Path
    """Raw data set in nnU-Net's layout, with labels.csv."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("untrained", "mdae", "mae")
    """Which; a later call adds others."""
    seeds: int = 2
    """Of pre-training."""
    readouts: tuple[str, ...] = ("alone", "beside")
    """How masks are told: alone, beside place and intensities."""
    sizes: tuple[str, ...] = ("4", "16")
    """Numbers of patients with masks."""
    draws: int = 5
    """Of each."""
    cnn_seeds: int = 1
    """Of the small CNN from scratch, which takes longest of all that tells labels; 0 for none."""
    part: Literal["all", "pretraining", "labels", "masks"] = "all"
    """What to do."""

    def study(self) -> StudyConfig:
        """The same for `recipes.few_labels`."""
        names = ("out", "data", "steps", "encoders", "seeds", "readouts", "sizes", "draws")
        own = {name: getattr(self, name) for name in names}
        return StudyConfig(subjects=self.out / "subjects.csv", **own)


def read_nodules(data: Path) -> pd.DataFrame:
    """The table of nodules, by scan."""
    table = pd.read_csv(data / "labels.csv", dtype={"scan": str, "subject": str})
    return table.set_index("scan", drop=False).sort_index()


def entries(data: Path) -> dict[str, ScanEntry]:
    """The crops by scan."""
    return {case.subject: next(iter(case.scans.values())) for case in read_cases("nnunet", data)}


def make_store(config: LidcConfig) -> None:
    """Prepare the crops of train patients, and write whose all of them are."""
    nodules, scans = read_nodules(config.data), entries(config.data)
    with atomic_write(config.out / "subjects.csv") as temporary:
        nodules[["scan", "subject", "split"]].assign(labelled="1").to_csv(temporary, index=False)
    train = nodules[nodules.split == "train"]
    paths = [scans[name].path.resolve() for name in train.scan]
    manifest = pd.DataFrame(
        {"path": paths, "subject": train.subject, "session": train.scan, "contrast": "CT"}
    )
    with atomic_write(config.out / "pretraining.csv") as temporary:
        manifest.to_csv(temporary, index=False)
    prepare(
        PrepareConfig(
            source=config.out / "pretraining.csv", store=config.out / "store", preprocessing=NODULES
        )
    )


def pretraining(trained: Trained, out: Path) -> PretrainConfig:
    """What is run: as in `recipes.few_labels`, on flatter crops with flatter blocks."""
    own = trained.pretraining(out)
    return replace(own, patch=PATCH, settings=tuple(BLOCK if one == CUBES else one for one in own.settings))


def askers(config: LidcConfig, nodules: pd.DataFrame) -> Iterator[tuple[str, int, Asker]]:
    """Who is asked: name, seed, and a question's name to the scores of nodules by scan. Baselines are first."""
    by_scan = entries(config.data)
    scans = [by_scan[name] for name in nodules.index]

    def by(features: Callable[[], np.ndarray]) -> Asker:
        known = functools.cache(features)
        return lambda name: asked(QUESTIONS[name], nodules, known())

    def frozen(spec: str) -> Asker:
        return by(lambda: features_of(spec, scans, config.out / "cache"))

    for name, features in sizes_of(nodules, scans).items():
        yield name, 0, by(lambda features=features: features)  # type: ignore[misc]
    like = Trained("untrained", 0, 0).folder(config.out) / "model"
    yield "histogram", 0, frozen(f"histogram:{like}")
    for trained in few_labels.encoders(config.study()):
        yield trained.name, trained.seed, frozen(str(trained.folder(config.out) / "model"))
    for seed in range(config.cnn_seeds):
        spec = f"{CNN}:{like}:{seed}"
        yield CNN, seed, lambda name, spec=spec: asked_of_cnn(name, nodules, by_scan, spec, config.out)  # type: ignore[misc]


def labels(config: LidcConfig) -> None:
    """Ask every question of every encoder that was not asked yet; scores of single nodules stay in the folder."""
    nodules, path = read_nodules(config.data), config.out / "scores.csv"
    scores = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEY)
    known = set(scores[KEY].itertuples(index=False, name=None))
    for encoder, seed, ask in askers(config, nodules):
        asked_for = BY_CNN if encoder == CNN else QUESTIONS
        for name in (name for name in asked_for if (name, encoder, seed) not in known):
            row = {"question": name, "encoder": encoder, "seed": seed, **ask(name)}
            scores = pd.concat([scores, pd.DataFrame([row])])
            with atomic_write(path) as temporary:
                scores.to_csv(temporary, index=False)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with atomic_write(RESULTS / "labels.csv") as temporary:
        pd.DataFrame(summary(scores, nodules)).round(4).to_csv(temporary, index=False)


def masks(config: LidcConfig) -> None:
    """Rows of the readouts of masks that are not in the table yet."""
    table, study = RESULTS / "masks.csv", config.study()
    listed = (*(Trained(name, 0, 0) for name in MASK_BASELINES), *few_labels.encoders(study))
    for trained in each_taken(study, listed):
        read_all(study, trained, table)


def main() -> None:
    config = tyro.cli(LidcConfig, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    if config.part in ("all", "pretraining"):
        make_store(config)
        for trained in few_labels.encoders(config.study()):
            pretrain(pretraining(trained, config.out))
    if config.part in ("all", "labels"):
        labels(config)
    if config.part in ("all", "masks"):
        masks(config)


if __name__ == "__main__":
    main()
