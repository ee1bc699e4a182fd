"""`mdae evaluate`: an encoder's fair trial on a task, by modality and all together, with its predictions kept."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.stack import JOINT
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.cohort import Cohort, copies, find_cohort, split_digest, split_parts
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.features.cache import FeatureCache, default_folder
from mdae.evaluation.features.extractors import (
    Extractor,
    channels_of,
    fingerprint_of,
    is_own,
    open_backbone,
    open_extractor,
    weights_of,
)
from mdae.evaluation.features.session import session_entry
from mdae.evaluation.finetuning.finetune import Study, cross_validate_finetune, hold_out_finetune
from mdae.evaluation.finetuning.inputs import CachedInputs, InputExtractor
from mdae.evaluation.probing.cross_validation import Scored, cross_validate, hold_out
from mdae.evaluation.probing.estimators import KNN, LINEAR, RIDGE
from mdae.evaluation.results.evaluation_log import count_trial, question_of
from mdae.evaluation.results.schema import Evaluation, ModalityResult, result_path
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, cross_validation_widening
from mdae.evaluation.statistics.scores import classification_scores, regression_scores
from mdae.files import require_writable, write_json
from mdae.interop.exposure import known_exposure
from mdae.networks.saved import overlap
from mdae.tasks.catalogue import find_task
from mdae.tasks.layouts import Case
from mdae.tasks.nnunet_raw import is_nnunet_raw
from mdae.tasks.record import FUSED, Task, scenario_of
from mdae.text import counted

SHOWN = 20  # scans that are left out and named, with the reason

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> Iterator[Evaluation]:
    """Evaluate on each task and write its result; the features of a scan are computed once for all of them.

    Raises:
        ConfigError, DataError: what cannot be carried out.
    """
    tasks = [(find_task(name), _with_data(name, config)) for name in config.task]
    trials = [(task, _with_protocol(task, own)) for task, own in tasks]
    for task, own in trials:
        _check(task, own)
    require_writable(config.out)

    @functools.cache
    def extractor() -> Extractor:
        """Opened for the first task that has a use for it, and once for all."""
        return open_extractor(config.encoder, window=config.window, pool=config.pool, device=config.device)

    for task, own in trials:
        yield _written(_evaluate_on(task, own, extractor), own)


def _with_data(name: str, config: EvaluateConfig) -> EvaluateConfig:
    """A data set in nnU-Net's layout is task and data in one."""
    return replace(config, data=Path(name)) if config.data is None and is_nnunet_raw(Path(name)) else config


def _with_protocol(task: Task, config: EvaluateConfig) -> EvaluateConfig:
    """The protocol that `auto` stands for; days of nnU-Net are never what somebody who names another one gets.

    Raises:
        ConfigError: a protocol of labels for a task of masks.
    """
    if task.kind != "segmentation":
        return replace(config, protocol="linear") if config.protocol == "auto" else config
    if config.protocol not in ("auto", "voxels", "segment"):
        raise ConfigError(
            f"{task.name} has masks and no labels for --protocol {config.protocol}",
            mend="use --protocol segment or voxels, or leave it out for nnU-Net",
        )
    return config


def _evaluate_on(task: Task, config: EvaluateConfig, extractor: Callable[[], Extractor]) -> Evaluation:
    """By what the task is and the protocol that is wanted; each imports what it needs."""
    if config.protocol in ("voxels", "segment"):
        from mdae.evaluation.segment.evaluate import evaluate_few

        return evaluate_few(task, config)
    if task.kind == "segmentation":
        from mdae.evaluation.nnunet.run import evaluate_segmentation

        return evaluate_segmentation(task, config, config.segment)
    return _evaluate_frozen(task, config, extractor()) if config.frozen else _evaluate_finetuned(task, config)


def _written(evaluation: Evaluation, config: EvaluateConfig) -> Evaluation:
    """Write a result file and the note of the trial; the same evaluation with the number of trials."""
    scored = sorted({name for result in evaluation.results for name in result.subjects})
    about = {"fingerprint": evaluation.fingerprint, "protocol": evaluation.protocol, **evaluation.settings}
    trials = count_trial(
        config.out,
        question=question_of(evaluation.task),
        weights=evaluation.weights or evaluation.fingerprint,
        encoder=evaluation.encoder,
        subjects=scored,
        settings=about,
    )
    exposure = known_exposure(config.encoder, evaluation.task.layout)
    evaluation = replace(evaluation, trials=trials, exposure=exposure)
    path = result_path(config.out, evaluation)
    if _is_of_another(path, evaluation):
        logger.warning("%s: replaces that of another %s; --name keeps both", path, evaluation.encoder)
    write_json(path, evaluation.to_dict())
    return evaluation


def _is_of_another(path: Path, evaluation: Evaluation) -> bool:
    """Whether a result of other weights, or of the same seen otherwise, stands where this one goes."""
    try:
        return bool(json.loads(path.read_text())["fingerprint"] != evaluation.fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check(task: Task, config: EvaluateConfig) -> None:
    """Find what cannot be carried out before anything is computed."""
    if unknown := [name for name in config.modalities if name not in task.modalities]:
        raise ConfigError(
            f"{task.name} has no modality {unknown[0]}", mend=f"use {', '.join(task.modalities)}"
        )
    if task.kind == "regression" and config.protocol == "knn":
        raise ConfigError("nearest neighbours are for classification", mend="use --protocol linear")
    if config.protocol in ("voxels", "segment") and task.kind != "segmentation":
        raise ConfigError(
            f"{task.name} has no masks", mend=f"use --protocol {config.protocol} for segmentation tasks"
        )
    chosen = (config.window, config.pool) != (EvaluateConfig.window, EvaluateConfig.pool)
    if chosen and task.kind != "segmentation" and not (config.frozen and is_own(config.encoder)):
        raise ConfigError(
            "--window and --pool are for frozen encoders of ours, and others would not heed them",
            mend="leave them out",
        )


# -- frozen features ----------------------------------------------------------------------------------------------


def _evaluate_frozen(task: Task, config: EvaluateConfig, extractor: Extractor) -> Evaluation:
    """A probe of frozen features, of each modality and of all side by side."""
    protocol = RIDGE if task.kind == "regression" else LINEAR if config.protocol == "linear" else KNN
    modalities = config.modalities or task.modalities
    cache = FeatureCache(config.cache or default_folder(), extractor)
    channels = channels_of(extractor)
    cohort, parts, seen = _ready_cohort(task, modalities, cache, extractor.pretraining, config, channels)
    views = (FUSED,) if channels else modalities  # all in one pass, or one after the other
    features = {name: np.stack([_known(cache, case.scans[name]) for case in cohort.cases]) for name in views}
    if len(views) > 1:
        features[FUSED] = np.concatenate([features[name] for name in views], axis=1)

    def score(modality: str) -> Scored:
        x, y, names = features[modality], cohort.labels, cohort.people
        if parts is not None:
            return hold_out(protocol, x, y, names, parts, config.seed)
        options = {"folds": config.folds, "repeats": config.repeats, "seed": config.seed}
        return cross_validate(protocol, x, y, names, **options)

    return Evaluation(
        task=task,
        encoder=config.name or extractor.name,
        fingerprint=extractor.fingerprint,
        protocol=config.protocol,
        selection=_selection(config, "neighbours" if protocol is KNN else "penalty"),
        settings={**_settings(config, modalities), "window": config.window, "pool": config.pool},
        left_out=cohort.left_out,
        results=_judge(task, list(features), cohort, parts, score, config),
        seen_in_pretraining=seen,
        data_set=cohort.data_set,
        weights=weights_of(extractor.identity),
    )


def _evaluate_finetuned(task: Task, config: EvaluateConfig) -> Evaluation:
    """Fine-tuned networks, one for each modality and one for all together."""
    modalities = config.modalities or task.modalities
    backbone = open_backbone(config.encoder)
    folder = config.cache or default_folder()
    cache = FeatureCache(folder, InputExtractor(backbone))
    cohort, parts, seen = _ready_cohort(task, modalities, cache, backbone.pretraining, config)
    views: dict[str, tuple[str, ...]] = {name: (name,) for name in modalities}
    if len(modalities) > 1:
        views[FUSED] = tuple(modalities)

    def score(view: str) -> Scored:
        study = Study(
            make_backbone=lambda: open_backbone(config.encoder),
            inputs=CachedInputs(
                [[cache.path(case.scans[name]) for name in views[view]] for case in cohort.cases]
            ),
            labels=cohort.labels,
            subjects=cohort.people,
            kind="regression" if task.kind == "regression" else "classification",
            options=config.finetune,
            device=config.device,
            kept=folder / "finetuned",
        )
        if parts is not None:
            return hold_out_finetune(study, parts, repeats=config.repeats, seed=config.seed)
        return cross_validate_finetune(study, folds=config.folds, repeats=config.repeats, seed=config.seed)

    return Evaluation(
        task=task,
        encoder=config.name or backbone.name,
        fingerprint=fingerprint_of(backbone),
        protocol=config.protocol,
        selection=_selection(config, "epoch"),
        settings={**_settings(config, modalities), **config.finetune.fingerprint()},
        left_out=cohort.left_out,
        results=_judge(task, list(views), cohort, parts, score, config),
        seen_in_pretraining=seen,
        data_set=cohort.data_set,
        weights=weights_of(backbone.identity),
    )


def _settings(config: EvaluateConfig, modalities: Sequence[str]) -> dict[str, Any]:
    """What might have been chosen otherwise, JSON-able."""
    chosen = {name: getattr(config, name) for name in ("folds", "repeats", "seed")}
    return {"modalities": list(modalities), "split": split_digest(config.split), **chosen}


# -- the cohort ---------------------------------------------------------------------------------------------------


def _ready_cohort(
    task: Task,
    modalities: Sequence[str],
    cache: FeatureCache,
    pretraining: Mapping[str, Any] | None,
    config: EvaluateConfig,
    channels: Sequence[str] = (),
) -> tuple[Cohort, np.ndarray | None, int | None]:
    """The cohort of whom every scan is in the cache, each person once; the part of each; what was pre-trained on.

    For an encoder of several channels, the scans of a case are one, by the name of all modalities together.

    Returns:
        The cohort; (N,) of train, val and test, None for cross-validation; and how many of the scored scans the encoder
        was pre-trained on, None if nobody knows.

    Raises:
        DataError: no scan can be embedded, or a split that cannot be used.
    """
    cohort = find_cohort(task, config.root, modalities, config.subjects)
    if channels:
        cohort = _as_sessions(cohort, modalities, channels)
        modalities = (FUSED,)
    if config.split is not None:  # what is wrong with it must not come out after hours of embedding
        parts = split_parts(config.split, cohort)
        cohort = cohort.without({int(i): f"not in {config.split.name}" for i in np.flatnonzero(parts == "")})
    failed = cache.fill(
        [case.scans[name] for case in cohort.cases for name in modalities], workers=config.workers
    )
    for path, error in list(failed.items())[:SHOWN]:
        logger.warning("left out: %s: %s", path, error.what)
    unfit = {i: _first_failure(case, modalities, failed) for i, case in enumerate(cohort.cases)}
    cohort = cohort.without({i: why for i, why in unfit.items() if why})
    if not cohort.cases:
        path, error = next(iter(failed.items()))
        raise DataError(f"no scan can be embedded, e.g. {error.what}", where=path, mend="look at the file")
    contents = {
        case.subject: [
            content for name in modalities for content in cache.content(case.scans[name]).split(JOINT)
        ]
        for case in cohort.cases
    }
    cohort = cohort.without(copies(cohort, list(contents.values())))
    kept = None if config.split is None else split_parts(config.split, cohort)
    if pretraining is None:
        return cohort, kept, None
    scored = cohort.subjects if kept is None else cohort.subjects[kept == "test"]
    hashes = {content for subject in scored.tolist() for content in contents[subject]}
    return cohort, kept, len(overlap(dict(pretraining), hashes))


def _as_sessions(cohort: Cohort, modalities: Sequence[str], channels: Sequence[str]) -> Cohort:
    """Cases whose scans of these modalities are one; raises `ConfigError` where none is a channel's."""
    cases = [
        replace(case, scans={FUSED: session_entry({name: case.scans[name] for name in modalities}, channels)})
        for case in cohort.cases
    ]
    return replace(cohort, cases=cases)


def _first_failure(case: Case, modalities: Sequence[str], failed: Mapping[str, ScanError]) -> str:
    paths = [str(case.scans[name].path) for name in modalities]
    return next((failed[path].what for path in paths if path in failed), "")


def _known(cache: FeatureCache, scan: ScanEntry) -> np.ndarray:
    features = cache.read(scan)
    if features is None:
        raise DataError("its features are gone from the cache", where=scan.path, mend="repeat the command")
    if not np.isfinite(features).all():
        raise DataError(
            "its features are NaN or infinite", where=scan.path, mend="check the encoder's weights"
        )
    return features.astype(np.float64)


# -- figures ------------------------------------------------------------------------------------------------------


def _judge(
    task: Task,
    modalities: Sequence[str],
    cohort: Cohort,
    parts: np.ndarray | None,
    score: Callable[[str], Scored],
    config: EvaluateConfig,
) -> list[ModalityResult]:
    """Each modality's figures, or why there are none.

    Args:
        parts: (N,) train, val, test or "" for each case; None for cross-validation.
        score: a modality's name to `Scored` of all cases, of which those in the test part (all, if cross-validated)
            are used. It is not called where too few could be scored.
    """
    tested = np.ones(len(cohort.cases), bool) if parts is None else parts == "test"
    widening = cross_validation_widening(config.folds) if parts is None else 1.0
    refused = _too_few(task, cohort.labels, parts, config.folds)
    results = []
    for modality in modalities:
        blank = ModalityResult(modality, scenario_of(task, modality), refused=refused)
        if refused:
            results.append(blank)
            continue
        scored: Scored = score(modality)
        y, s, p = (values[tested] for values in (cohort.labels, scored.scores, scored.probabilities))
        names, people = cohort.subjects[tested], cohort.people[tested]
        if task.kind == "classification":
            figures = classification_scores(y, s, p, people, widening=widening, seed=config.seed)
        else:
            figures = regression_scores(y, s, people, widening=widening, seed=config.seed)
        results.append(
            replace(
                blank,
                scores=figures,
                subjects=names.tolist(),
                labels=y.tolist(),
                predictions=s.tolist(),
                probabilities=p.tolist() if task.kind == "classification" else [],
                widening=widening,
            )
        )
    return results


def _too_few(task: Task, labels: np.ndarray, parts: np.ndarray | None, folds: int) -> str:
    """Why nothing is reported of so few subjects, if so."""
    if parts is None:
        return _short_of(task, labels, max(MIN_SUBJECTS, folds), "score")
    fitted = _short_of(task, labels[parts == "train"], 2, "train on")
    return fitted or _short_of(task, labels[parts == "test"], MIN_SUBJECTS, "score")


def _short_of(task: Task, labels: np.ndarray, wanted: int, purpose: str) -> str:
    if task.kind == "regression":
        few = len(labels) < wanted
        return f"{counted(len(labels), 'subject')} to {purpose}, and {wanted} are wanted" if few else ""
    fewest = min(int((labels == value).sum()) for value in (0, 1))
    return (
        f"a class has {counted(int(fewest), 'subject')} to {purpose}, and {wanted} are wanted"
        if fewest < wanted
        else ""
    )


def _selection(config: EvaluateConfig, chosen: str) -> str:
    """How anything was chosen, and what was scored, in words."""
    if config.split is not None:
        return f"{chosen} chosen on train and val subjects of {config.split.name}; test subjects scored once"
    widening = cross_validation_widening(config.folds)
    return (
        f"{config.repeats} x {config.folds}-fold cross-validation by subject; {chosen} chosen within each training "
        f"part; intervals over subjects, {widening:.2f} times as wide because models are refitted"
    )
