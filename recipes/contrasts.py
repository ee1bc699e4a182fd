"""Does what was learned on T1w and T2w help in FLAIR, which pre-training never saw?

    python -m recipes.contrasts OUT
    python -m recipes.contrasts_page

Pre-training sees T1w and T2w of made-up subjects. Tissues and deep structures of others are then segmented after 1, 2
and 4 labelled subjects, in T2w (seen) and in FLAIR (never seen), read out in the contrast that is segmented.
Displacements are wide, so that place does not tell all. Real anatomy, made-up appearance: what a scanner adds is not
in it.

The question, its baselines and its rows are those of `recipes.few_labels`; they stand in `recipes/results/contrasts/`,
a table a contrast. Killed and started again it goes on; several at once share the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro
from filelock import FileLock
from tyro.conf import Positional

from mdae.data.prepare import PrepareConfig, prepare
from mdae.files import atomic_write
from mdae.report.labelled import PREPARED, cohort, subjects_of, tissue_tasks
from recipes.few_labels import (
    BASELINES,
    UNTRAINED,
    StudyConfig,
    Trained,
    each_taken,
    encoders,
    link,
    study,
    taken,
)

RESULTS = Path(__file__).parent / "results" / "contrasts"
SEEN, SEGMENTED = ("T1w", "T2w"), ("T2w", "FLAIR")
PRETRAINED_ON = 60
PARTS = {"train": 16, "val": 6, "test": 30}  # labelled subjects, none of whom is pre-trained on


@dataclass(frozen=True, kw_only=True)
class ContrastsConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the cohorts, the store and the runs."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("untrained", "mdae", "mae", "dsm")
    """Which, as `recipes.few_labels` names them; a later call adds others."""
    seeds: int = 3
    """Of pre-training."""
    readouts: tuple[str, ...] = ("alone", "beside")
    """How subjects are segmented: alone, beside place and intensities."""
    sizes: tuple[str, ...] = ("1", "2", "4")
    """Numbers of labelled subjects."""
    draws: int = 5
    """Of each."""
    part: Literal["all", "pretraining", "readouts"] = "all"
    """What to do; readouts are of encoders that are ready."""

    def study(self, contrast: str) -> StudyConfig:
        """The same for `recipes.few_labels`, in a folder of its own, for names of results are those of encoders."""
        names = ("steps", "encoders", "seeds", "readouts", "sizes", "draws", "part")
        own = {name: getattr(self, name) for name in names}
        out = self.out / contrast
        return StudyConfig(
            out=out, data=self.out / "tasks" / contrast, subjects=self.out / "subjects.csv", **own
        )


def make_data(config: ContrastsConfig) -> None:
    """The store of what is pre-trained on, and those who are segmented as a raw data set of nnU-Net's a contrast."""
    seen = cohort(config.out / "pretraining", PRETRAINED_ON, SEEN, 1)
    prepare(PrepareConfig(source=seen, store=config.out / "store", preprocessing=PREPARED))
    parts = [part for part, number in PARTS.items() for _ in range(number)]
    labelled = cohort(config.out / "labelled", len(parts), SEGMENTED, 2)
    tissue_tasks(config.out / "tasks", labelled, len(parts), SEGMENTED)
    names = subjects_of(len(parts))
    table = pd.DataFrame({"scan": names, "subject": names, "split": parts, "labelled": "1"})
    with atomic_write(config.out / "subjects.csv") as temporary:
        table.to_csv(temporary, index=False)


def share(config: ContrastsConfig) -> None:
    """Give each contrast a folder with the same encoders."""
    for contrast in SEGMENTED:
        (config.out / contrast).mkdir(exist_ok=True)
        for shared in ("store", "runs"):
            link((config.out / shared).resolve(), config.out / contrast / shared)


def ask(studies: Mapping[str, StudyConfig], trained: Trained) -> None:
    """What is left to do of one encoder, contrast by contrast."""
    for contrast, own in studies.items():
        study(own, trained, RESULTS / f"{contrast.lower()}.csv")


def main() -> None:
    config = tyro.cli(ContrastsConfig, description=__doc__)
    (config.out / "runs").mkdir(parents=True, exist_ok=True)
    with FileLock(config.out / "data.lock"):
        make_data(config)
        share(config)
    studies = {contrast: config.study(contrast) for contrast in SEGMENTED}
    first = studies[SEGMENTED[0]]  # it is in its folder that encoders are taken, for both
    like = Trained(UNTRAINED, 0, 0)  # baselines are prepared as its scans are
    with taken(first, like, wait=True):
        ask(studies, like)
    for trained in each_taken(first, (*(Trained(name, 0, 0) for name in BASELINES), *encoders(first))):
        ask(studies, trained)


if __name__ == "__main__":
    main()
