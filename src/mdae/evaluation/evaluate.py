"""`mdae evaluate`: an encoder's fair trial on a task, by contrast and all together, with its predictions kept."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mdae.errors import ConfigError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.features.clinical import CLINICAL, is_clinical
from mdae.evaluation.features.extractors import (
    FEATURES,
    Extractor,
    exposure_of,
    is_own,
    open_extractor,
)
from mdae.evaluation.features.small_cnn import is_cnn
from mdae.evaluation.results.evaluation_log import count_trial, question_of
from mdae.evaluation.results.schema import Evaluation, result_path
from mdae.files import require_writable, write_json
from mdae.tasks.catalogue import find_task
from mdae.tasks.nnunet_raw import is_nnunet_raw
from mdae.tasks.record import Task

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> Iterator[Evaluation]:
    """Evaluate on each task and write its result; the features of a scan are computed once for all of them.

    Raises:
        ConfigError, DataError: what cannot be carried out.
    """
    if config.features is not None:
        config = replace(config, encoder=f"{FEATURES}:{config.features}", features=None)
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
        if config.protocol != "auto":
            return config
        return replace(config, protocol="finetune" if is_cnn(config.encoder) else "linear")
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
    from mdae.evaluation.whole_scans import evaluate_clinical, evaluate_finetuned, evaluate_frozen

    if is_clinical(config.encoder):
        return evaluate_clinical(task, config)
    return evaluate_frozen(task, config, extractor()) if config.frozen else evaluate_finetuned(task, config)


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
    exposure = exposure_of(config.encoder, evaluation.task.layout)
    evaluation = replace(evaluation, trials=trials, exposure=exposure)
    path = result_path(config.out, evaluation)
    about_before, scored_before = _before(path, evaluation)
    if scored_before and not any(result.scores for result in evaluation.results):
        logger.warning("%s: kept as it is, for this evaluation has no figures", path)
        return evaluation
    if about_before:
        logger.warning("%s: replaces that of %s; --name keeps both", path, about_before)
    write_json(path, evaluation.to_dict())
    return evaluation


def _before(path: Path, evaluation: Evaluation) -> tuple[str, bool]:
    """What other evaluation stands where this one goes, "" if none or the same again; and whether it has figures."""
    try:
        found = json.loads(path.read_text())
        scored = any(result["scores"] for result in found["results"])
        if found["fingerprint"] != evaluation.fingerprint:
            return f"another {evaluation.encoder}", scored
        if found.get("data_set", evaluation.data_set) != evaluation.data_set:
            return "other subjects", scored
        own = json.loads(json.dumps(evaluation.settings))
        other = [name for name in own if found["settings"].get(name, own[name]) != own[name]]
        return f"other {other[0]}" if other else "", scored
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", False


def _check(task: Task, config: EvaluateConfig) -> None:
    """Find what cannot be carried out before anything is computed."""
    if unknown := [name for name in config.contrasts if name not in task.contrasts]:
        raise ConfigError(
            f"{task.name} has no contrast {unknown[0]}", mend=f"use {', '.join(task.contrasts)}"
        )
    if config.protocol == "knn" and not task.num_classes:
        raise ConfigError(
            f"{task.name} is of no classes, and nearest neighbours tell classes", mend="use --protocol linear"
        )
    if config.protocol == "finetune" and task.kind == "survival":
        raise ConfigError(
            f"{task.name} is of survival, and fine-tuning is for classes or a number",
            mend="use --protocol linear, which is Cox's regression",
        )
    if config.train_sizes:
        _check_sizes(task, config)
    if is_clinical(config.encoder) and config.protocol not in ("linear", "knn"):
        raise ConfigError(f"{CLINICAL} has no network", mend="use --protocol linear, of tasks with labels")
    if config.protocol in ("voxels", "segment") and task.kind != "segmentation":
        raise ConfigError(
            f"{task.name} has a label and no masks for --protocol {config.protocol}",
            mend="use --protocol linear, knn or finetune",
        )
    chosen = (config.window, config.pool) != (EvaluateConfig.window, EvaluateConfig.pool)
    if chosen and task.kind != "segmentation" and not (config.frozen and is_own(config.encoder)):
        raise ConfigError(
            "--window and --pool are for frozen encoders of ours, and others would not heed them",
            mend="leave them out",
        )


def _check_sizes(task: Task, config: EvaluateConfig) -> None:
    """Numbers of subjects that something can be learned from, by a protocol that takes minutes."""
    segments = task.kind == "segmentation"
    if config.protocol == "finetune" or (segments and config.protocol == "auto"):
        whose = "nnU-Net" if segments else "--protocol finetune"
        instead = "segment or voxels" if segments else "linear or knn"
        raise ConfigError(f"{whose} with --train-sizes", mend=f"use --protocol {instead}")
    least = 1 if segments else max(2, task.num_classes)
    few = [size for size in config.train_sizes if size.isdigit() and int(size) < least]
    if few:
        raise ConfigError(
            f"--train-sizes {few[0]}, to learn {task.name} from",
            mend=f"give {least} and more: one of each class",
        )
