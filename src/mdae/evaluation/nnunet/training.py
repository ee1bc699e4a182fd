"""One fold's training and predictions by nnU-Net, resumed where an earlier start was stopped.

It needs nnU-Net: import it where that is known to be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from mdae.evaluation.nnunet.dataset import ENDING, RawCase, RawDataset
from mdae.evaluation.nnunet.environment import augmenting_processes, nnunet_environment
from mdae.evaluation.nnunet.folds import Fold
from mdae.evaluation.nnunet.trainer import FoldRun, SegmentationTrainer
from mdae.interop.nnunet import CONFIGURATION
from mdae.progress import Progress

FINAL, LATEST, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
PREDICTIONS = "test"


@dataclass(frozen=True)
class Setting:
    """What the folds of an evaluation have in common.

    Attributes:
        dataset: prepared.
        plans: of the run.
        description: nnU-Net's dataset.json.
        folder: of the data set's raw, preprocessed and trained data.
        device: where to compute.
    """

    dataset: RawDataset
    plans: Mapping[str, Any]
    description: Mapping[str, Any]
    folder: Path
    device: torch.device

    @property
    def results(self) -> Path:
        """Where nnU-Net keeps this run's folds: a model folder for its own tools."""
        run = f"{SegmentationTrainer.__name__}__{self.plans['plans_name']}__{CONFIGURATION}"
        return self.folder / "results" / self.dataset.name / run

    def fold_folder(self, fold: Fold) -> Path:
        """Checkpoints, log and predictions of a fold."""
        return self.results / f"fold_{fold.number}"

    @property
    def augmenting(self) -> int:
        """Processes that augment."""
        own = self.plans["configurations"][CONFIGURATION]
        voxels = own["batch_size"] * int(np.prod(own["patch_size"]))
        return augmenting_processes(self.device, 4 * voxels * (len(self.description["channel_names"]) + 1))


def new_trainer(setting: Setting, fold: Fold, run: FoldRun, *, resumes: bool = False) -> SegmentationTrainer:
    """A trainer of a fold, not yet initialised; within `nnunet_environment`."""
    plans = {**setting.plans, "continue_training": resumes}
    trainer = SegmentationTrainer(
        plans, CONFIGURATION, fold.number, dict(setting.description), setting.device
    )
    trainer.start(run)
    return trainer


def train_fold(setting: Setting, fold: Fold, run: FoldRun) -> None:
    """Train a fold, or what is left of it; nothing if it is finished."""
    place = setting.fold_folder(fold)
    if (place / FINAL).is_file():
        return
    with nnunet_environment(setting.folder, setting.augmenting):
        resumes = (place / LATEST).is_file()
        trainer = new_trainer(setting, fold, run, resumes=resumes)
        trainer.initialize()
        if resumes:
            trainer.load_checkpoint(str(place / LATEST))
        fast = torch.backends.cudnn.flags(enabled=True, benchmark=True)  # as nnU-Net's command sets it
        title = f"fold {fold.number}: training"
        with fast, Progress(title, run.rate.epochs, done=trainer.current_epoch, unit="epochs") as progress:
            trainer.progress = progress.update
            trainer.run_training()


def predict_fold(setting: Setting, fold: Fold) -> dict[str, Path]:
    """The test cases' segmentations by identifier, on the scans' own grids, each predicted once.

    By nnU-Net's own predictor (overlapping patches, mirrored), with the checkpoint that did best on the val cases.
    """
    place = setting.fold_folder(fold) / PREDICTIONS
    there = {case_id: place / f"{case_id}{ENDING}" for case_id in fold.test}
    missing = [case_id for case_id, path in there.items() if not path.is_file()]
    if not missing:
        return there
    with (
        nnunet_environment(setting.folder, 0),
        Progress(
            f"fold {fold.number}: predicting",
            len(fold.test),
            done=len(fold.test) - len(missing),
            unit="subjects",
        ) as progress,
    ):
        predictor = nnUNetPredictor(device=setting.device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(setting.results), (fold.number,), BEST)
        for case_id in missing:
            _predict(predictor, setting.dataset.cases[case_id], there[case_id])
            progress.advance()
    return there


def _predict(predictor: Any, case: RawCase, path: Path) -> None:
    """Predict one case, in this process: no shared memory, and a file that is whole or not there."""
    under_way = path.parent.with_name("under_way") / path.name
    for folder in (under_way.parent, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    images = [str(image) for image in case.images]
    predictor.predict_from_files_sequential([images], [str(under_way).removesuffix(ENDING)])
    under_way.rename(path)
