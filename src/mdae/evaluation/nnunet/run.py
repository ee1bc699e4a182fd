"""`mdae evaluate` on segmentation tasks: nnU-Net trained from an encoder, and its predictions of unseen subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from mdae.errors import ConfigError
from mdae.evaluation.cohort import find_cohort, split_digest, split_parts
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.features.encoder import resolve_device
from mdae.evaluation.features.extractors import weights_of
from mdae.evaluation.nnunet.config import SegmentOptions
from mdae.evaluation.nnunet.dataset import RawDataset, dataset_key, raw_dataset
from mdae.evaluation.nnunet.environment import require_nnunet
from mdae.evaluation.nnunet.folds import Fold, cross_validation, given_split
from mdae.evaluation.nnunet.labels import LabelScheme
from mdae.evaluation.nnunet.schedule import LearningRate
from mdae.evaluation.nnunet.start import Start, open_start
from mdae.evaluation.results.schema import Evaluation, by_person, result_of_subjects
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.evaluation.statistics.overlap import overlap_scores
from mdae.networks.saved import overlap
from mdae.progress import Progress
from mdae.tasks.record import CONTRASTS_KEY, FUSED, Task

PROTOCOL = "nnunet"
SCRATCH_LR, TRAINED_LR = 0.01, 0.001


def evaluate_segmentation(task: Task, config: EvaluateConfig, options: SegmentOptions) -> Evaluation:
    """Train nnU-Net from an encoder on a task's masks and score its predictions of test subjects.

    Everything that nnU-Net writes is kept under `config.out / "nnunet"`, by the data and the settings: the same command
    again goes on where it was stopped, and encoders with one spacing share the prepared scans.

    Raises:
        ConfigError, DataError, ModelError: what cannot be carried out.
    """
    require_nnunet()
    device = resolve_device(config.device)
    if device.index:
        raise ConfigError(f"nnU-Net cannot be put on {device}", mend="set CUDA_VISIBLE_DEVICES instead")
    start = open_start(config.encoder)
    contrasts = start.in_order(config.contrasts or task.contrasts)
    weights = start.weights(len(contrasts))
    start.network.config.check_shape(options.patch or start.patch)
    cohort = find_cohort(task, config.root, contrasts, config.subjects)
    folder = config.out / "nnunet" / f"{task.name}-{dataset_key(cohort, contrasts)}"
    parts = None
    if config.split is not None:
        parts = dict(zip(cohort.subjects.tolist(), split_parts(config.split, cohort).tolist(), strict=True))
    dataset = raw_dataset(task, config.root, cohort, contrasts, folder / "raw", config.workers)
    whose = dict(zip(cohort.subjects.tolist(), cohort.people.tolist(), strict=True))
    tested = _run(dataset, parts, whose, start, weights, folder, device, config, options)
    values = by_person(_score(dataset, tested, options.tolerance_mm), whose)
    contrast = FUSED if len(contrasts) > 1 else contrasts[0]
    contents = {content for case_id in tested for content in dataset.cases[case_id].contents}
    known = None if start.pretraining is None else len(overlap(dict(start.pretraining), contents))
    return Evaluation(
        task=task,
        encoder=config.name or start.name,
        fingerprint=start.fingerprint,
        protocol=f"{PROTOCOL}-{options.schedule}",
        selection=_selection(config, options),
        settings=_settings(start, contrasts, config, options),
        excluded=dataset.excluded,
        results=[result_of_subjects(task, contrast, values, config)],
        seen_in_pretraining=known,
        data_set=cohort.data_set,
        attributes=cohort.attributes,
        weights=weights_of(start.fingerprint),
    )


def _run(
    dataset: RawDataset,
    parts: Mapping[str, str] | None,
    whose: Mapping[str, str],
    start: Start,
    weights: Mapping[str, Any] | None,
    folder: Path,
    device: torch.device,
    config: EvaluateConfig,
    options: SegmentOptions,
) -> dict[str, Path]:
    """Train and predict every fold; the predictions by identifier."""
    from mdae.evaluation.nnunet import planning, trainer, training  # here: they need nnU-Net

    rate = LearningRate(options.schedule, options.epochs, peak_rate(start, options), options.warmup)
    chosen = _folds(dataset, parts, whose, config, options)
    name = f"mdae-{_run_key(start, rate, chosen, config, options)}"
    patch = options.patch or start.patch
    plans = planning.make_plans(
        dataset, start, folder, name=name, patch=patch, batch=options.batch, workers=config.workers
    )
    planning.preprocess(dataset, plans, folder, workers=config.workers)
    setting = training.Setting(dataset, plans, planning.dataset_description(dataset, folder), folder, device)
    predictions: dict[str, Path] = {}
    for fold in chosen:
        if options.only_folds and fold.number not in options.only_folds:
            continue
        run = trainer.FoldRun(
            train=fold.train,
            val=fold.val,
            weights=weights,
            decoder=options.decoder == "pretrained",
            rate=rate,
            iterations=options.iterations,
            seed=config.seed,
        )
        training.train_fold(setting, fold, run)
        predictions |= training.predict_fold(setting, fold)
    return predictions


def peak_rate(start: Start, options: SegmentOptions) -> float:
    """The highest learning rate: as given, else by whether the weights are worth keeping."""
    return options.lr or (TRAINED_LR if start.trained else SCRATCH_LR)


def _folds(
    dataset: RawDataset,
    parts: Mapping[str, str] | None,
    whose: Mapping[str, str],
    config: EvaluateConfig,
    options: SegmentOptions,
) -> list[Fold]:
    """The trainings of an evaluation, of which `only_folds` may name some."""
    case_ids = list(dataset.cases)
    people = [whose[case.subject] for case in dataset.cases.values()]
    if parts is None:
        found = cross_validation(case_ids, config.folds, config.seed, people)
    else:
        of_cases = [parts[case.subject] for case in dataset.cases.values()]
        found = [given_split(case_ids, of_cases, config.seed, people)]
    if unknown := [number for number in options.only_folds if number >= len(found)]:
        raise ConfigError(f"no fold {unknown[0]}", mend=f"there are 0 to {len(found) - 1}")
    return found


def _run_key(
    start: Start, rate: LearningRate, chosen: list[Fold], config: EvaluateConfig, options: SegmentOptions
) -> str:
    """The same for trainings that would come out the same; what they leave is kept under it."""
    about = {
        "weights": start.fingerprint,
        "network": start.network.config.to_dict(),
        "spacing": list(start.contract.spacing_mm),
        "rate": asdict(rate),
        "folds": [asdict(fold) for fold in chosen],
        "seed": config.seed,
        "patch": list(options.patch or start.patch),
        **{name: getattr(options, name) for name in ("iterations", "batch", "decoder")},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]


def _score(
    dataset: RawDataset, predictions: Mapping[str, Path], tolerance_mm: float
) -> dict[str, dict[str, float]]:
    """The figures of every tested subject, by its name."""
    scores = {}
    with Progress("scoring", len(predictions), unit="subjects") as progress:
        for case_id, path in sorted(predictions.items()):
            case = dataset.cases[case_id]
            scores[case.subject] = score_case(path, case.label, dataset.scheme, tolerance_mm)
            progress.advance()
    return scores


def score_case(prediction: Path, label: Path, scheme: LabelScheme, tolerance_mm: float) -> dict[str, float]:
    """Dice and NSD of one subject, on the scan's own grid: the means over the classes, then each.

    Args:
        prediction, label: files of nnU-Net's label values.
        scheme: classes, parts and the value that is not scored.
        tolerance_mm: of the NSD.
    """
    image: Any = nib.load(label)
    reference = np.asarray(image.dataobj)
    predicted = np.asarray(nib.load(prediction).dataobj)  # type: ignore[attr-defined]
    if scheme.ignore is not None:
        predicted = np.where(reference == scheme.ignore, 0, predicted)
    x, y, z = (float(side) for side in voxel_sizes(image.affine))
    each = overlap_scores(predicted, reference, {**scheme.classes, **scheme.parts}, (x, y, z), tolerance_mm)
    means = {
        figure: float(np.mean([each[f"{figure}_{name}"] for name in scheme.classes]))
        for figure in ("dice", "nsd")
    }
    return {**means, **each}


def _settings(
    start: Start, contrasts: Sequence[str], config: EvaluateConfig, options: SegmentOptions
) -> dict[str, Any]:
    """All that could have been set otherwise, JSON-able."""
    chosen = {name: value for name, value in asdict(options).items() if name != "only_folds"}
    split = split_digest(config.split)
    return {
        **chosen,
        "lr": peak_rate(start, options),
        "patch": list(options.patch or start.patch),
        "spacing_mm": list(start.contract.spacing_mm),
        CONTRASTS_KEY: list(contrasts),
        "split": split,
        "folds": None if split else config.folds,
        "seed": config.seed,
    }


def _selection(config: EvaluateConfig, options: SegmentOptions) -> str:
    """How anything was chosen, and what was scored, in words."""
    best = "the epoch chosen by nnU-Net's moving average of the pseudo Dice on"
    if config.split is not None:
        return f"{best} val subjects of {config.split.name}; test subjects predicted once"
    some = (
        f" (of {config.folds}, folds {', '.join(map(str, options.only_folds))} alone)"
        if options.only_folds
        else ""
    )
    return (
        f"{config.folds}-fold cross-validation by subject{some}; {best} the next fold; intervals over subjects, "
        f"{cross_validation_widening(config.folds):.2f} times as wide because models are refitted"
    )
