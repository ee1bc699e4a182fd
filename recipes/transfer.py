"""Does what was learned on one set help on another, across anatomy and modality?

    python -m recipes.transfer OUT --hippocampus FEW --lidc NODULES --data-hippocampus ... --data-lidc ...

FEW and NODULES are the folders of `recipes.few_labels` and `recipes.lidc`. The weights of each are put into a network
that prepares scans as the other set's models do (`--init`, and one step at a learning rate of nothing), so that they
alone differ from those of the other set's encoders and of its untrained network. Rows as in `recipes.few_labels` stand
in `recipes/results/transfer/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tyro.conf import Positional

from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from recipes import lidc
from recipes.few_labels import StudyConfig, Trained, read_all, taken

RESULTS = Path(__file__).parent / "results" / "transfer"


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the models that others' weights become."""
    hippocampus: Path
    """Folder of `recipes.few_labels`."""
    lidc: Path
    """Folder of `recipes.lidc`."""
    data_hippocampus: Path
    """Raw data set of the hippocampus in nnU-Net's layout, with subjects.csv."""
    data_lidc: Path
    """Raw data set of the nodules."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("mdae", "mae")
    """Whose weights."""
    seeds: int = 2
    """Of pre-training."""
    readouts: tuple[str, ...] = ("alone", "beside")
    """How masks are told: alone, beside place and intensities."""
    sizes: tuple[str, ...] = ("4", "16")
    """Numbers of labelled persons."""
    draws: int = 5
    """Of each."""


@dataclass(frozen=True)
class Way:
    """From one set to another.

    Attributes:
        name: of the set that is segmented.
        origin: what its encoders are called that come from the other.
        source: folder of the study whose weights are taken.
        target: folder of the study whose scans are segmented.
        study: how these are read out.
    """

    name: str
    origin: str
    source: Path
    target: Path
    study: StudyConfig

    def pretraining(self, trained: Trained) -> PretrainConfig:
        """One step that changes nothing, of the other set's weights."""
        own = lidc.pretraining if self.name == "lidc" else Trained.pretraining
        config = own(trained, self.target)
        init = str(trained.folder(self.source) / "model")
        return replace(config, out=self.moved(trained).folder(self.study.out), init=init, steps=1, lr=1e-12)

    def moved(self, trained: Trained) -> Trained:
        """What it is called here."""
        return replace(trained, name=f"{trained.name}, {self.origin}")


def ways_between() -> dict[str, str]:
    """The sets that are segmented, and what encoders from the other one are called there."""
    return {"lidc": "of hippocampus", "hippocampus": "of nodules"}


def ways(config: TransferConfig) -> Iterator[Way]:
    """There and back."""
    names = ("steps", "encoders", "seeds", "readouts", "sizes", "draws")
    own = {name: getattr(config, name) for name in names}
    few, nodules = config.hippocampus, config.lidc
    on_nodules = StudyConfig(
        out=config.out / "lidc", data=config.data_lidc, subjects=nodules / "subjects.csv", **own
    )
    origins = ways_between()
    yield Way("lidc", origins["lidc"], few, nodules, on_nodules)
    subjects = config.data_hippocampus / "subjects.csv"
    on_hippocampus = StudyConfig(
        out=config.out / "hippocampus", data=config.data_hippocampus, subjects=subjects, **own
    )
    yield Way("hippocampus", origins["hippocampus"], nodules, few, on_hippocampus)


def main() -> None:
    config = tyro.cli(TransferConfig, description=__doc__)
    trained = [Trained(name, seed, config.steps) for seed in range(config.seeds) for name in config.encoders]
    for way in ways(config):
        way.study.out.mkdir(parents=True, exist_ok=True)
        table = RESULTS / f"{way.name}.csv"
        for own in trained:
            moved = way.moved(own)
            with taken(way.study, moved) as mine:
                if mine:
                    pretrain(way.pretraining(own))
                    read_all(way.study, moved, table)


if __name__ == "__main__":
    main()
