"""nnU-Net's own fingerprint, plan and preprocessing of a raw data set, with our network in the plan."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mdae.data.workers import num_cores
from mdae.evaluation.nnunet.dataset import RawDataset
from mdae.evaluation.nnunet.environment import MOST_PROCESSES, nnunet_environment
from mdae.evaluation.nnunet.start import Start
from mdae.files import write_json
from mdae.interop.nnunet import CONFIGURATION, adapt_plans
from mdae.tasks.nnunet_raw import DESCRIPTION
from mdae.types import Shape3

PLANNER = "nnUNetResEncUNetPlans"


def processes(workers: int) -> int:
    """How many processes prepare scans."""
    return min(workers or num_cores(), MOST_PROCESSES)


def make_plans(
    dataset: RawDataset, start: Start, folder: Path, *, name: str, patch: Shape3, batch: int, workers: int
) -> dict[str, Any]:
    """The plans of nnU-Net's ResEnc planner for the data, with our network, spacing and patch; and their file.

    Args:
        dataset: in `folder`'s raw data.
        start: the network.
        folder: of the data set's raw, preprocessed and trained data.
        name: of the plans.
        patch, batch: of training, in voxels and patches.
        workers: processes; 0 for one a core, up to eight.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.resencUNet_planner import ResEncUNetPlanner

    place = folder / "preprocessed" / dataset.name
    with nnunet_environment(
        folder, processes=1
    ):  # the planner sets as many threads, of which there must be one
        if not (place / f"{PLANNER}.json").is_file():
            extractor = DatasetFingerprintExtractor(dataset.name, processes(workers))
            extractor.show_progress_bar = False
            extractor.run(overwrite_existing=True)
            ResEncUNetPlanner(dataset.name, plans_name=PLANNER).plan_experiment()
    spacing = start.contract.spacing_mm
    theirs = json.loads((place / f"{PLANNER}.json").read_text())
    plans = adapt_plans(
        theirs,
        start.network.config,
        name=name,
        patch=patch,
        spacing_mm=spacing,
        intensity=start.contract.intensity,
        batch=batch,
    )
    write_json(place / f"{name}.json", plans)
    return plans


def preprocess(dataset: RawDataset, plans: dict[str, Any], folder: Path, *, workers: int) -> Path:
    """Let nnU-Net prepare every case once for a spacing, and return the folder; whole or not at all."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    place = folder / "preprocessed" / dataset.name
    own = plans["configurations"][CONFIGURATION]
    target = place / str(own["data_identifier"])
    if target.is_dir():
        return target
    part = f"{target.name}.{os.getpid()}.part"
    under_way = {**plans, "configurations": {CONFIGURATION: {**own, "data_identifier": part}}}
    try:
        write_json(place / f"{part}.json", under_way)
        with nnunet_environment(folder, processes=1):
            preprocessor = DefaultPreprocessor(verbose=False)
            preprocessor.show_progress_bar = False
            preprocessor.run(dataset.name, CONFIGURATION, part, num_processes=processes(workers))
        if not target.is_dir():  # another start may have been first
            (place / part).rename(target)
    finally:
        (place / f"{part}.json").unlink(missing_ok=True)
        shutil.rmtree(place / part, ignore_errors=True)
    return target


def dataset_description(dataset: RawDataset, folder: Path) -> dict[str, Any]:
    """The dataset.json that nnU-Net trains by."""
    return dict(json.loads((folder / "preprocessed" / dataset.name / DESCRIPTION).read_text()))
