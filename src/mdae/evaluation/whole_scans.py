"""Tasks of whole scans: a probe of frozen features, or fine-tuned networks, of each contrast and of all together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.stack import JOINT
from mdae.errors import DataError, ScanError
from mdae.evaluation.cohort import (
    Cohort,
    find_cohort,
    ready_cohort,
    split_digest,
    split_parts,
    tested_rows,
    within_split,
)
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.features.cache import FeatureCache, default_folder
from mdae.evaluation.features.clinical import CLINICAL, clinical_features, columns_of
from mdae.evaluation.features.extractors import (
    Extractor,
    fingerprint_of,
    open_backbone,
    weights_of,
)
from mdae.evaluation.features.session import session_entry
from mdae.evaluation.finetuning.finetune import Study, cross_validate_finetune, hold_out_finetune
from mdae.evaluation.finetuning.inputs import CachedInputs, InputExtractor
from mdae.evaluation.label_curve import LabelCurve
from mdae.evaluation.probing.cross_validation import Scored, cross_validate, hold_out
from mdae.evaluation.probing.estimators import RIDGE, Protocol
from mdae.evaluation.probing.neighbours import neighbours
from mdae.evaluation.probing.survival import COX
from mdae.evaluation.probing.targets import linear_protocol
from mdae.evaluation.results.figures import judge
from mdae.evaluation.results.schema import Evaluation
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.networks.saved import overlap
from mdae.tasks.layouts import Case
from mdae.tasks.record import CONTRASTS_KEY, FUSED, Task

SHOWN = 20  # scans that are left out and named, with the reason

logger = logging.getLogger(__name__)


def protocol_of(task: Task, name: str) -> Protocol:
    """How frozen features are judged by a task."""
    if task.num_classes:
        return (neighbours if name == "knn" else linear_protocol)(task.num_classes)
    return COX if task.kind == "survival" else RIDGE


def scored_by(
    protocol: Protocol, features: np.ndarray, cohort: Cohort, parts: np.ndarray | None, config: EvaluateConfig
) -> Scored:
    """All cases by models that never saw their person: of a given split, or cross-validated.

    Args:
        protocol: how.
        features: (N, F).
        cohort: N cases.
        parts: (N,) of train, val and test; None for cross-validation.
        config: folds, repeats and seed.
    """
    y, people = cohort.labels, cohort.people
    if parts is not None:
        return hold_out(protocol, features, y, people, parts, config.seed)
    options: dict[str, Any] = {"folds": config.folds, "repeats": config.repeats, "seed": config.seed}
    return cross_validate(protocol, features, y, people, **options)


def evaluate_frozen(task: Task, config: EvaluateConfig, extractor: Extractor) -> Evaluation:
    """A probe of frozen features, of each contrast and of all side by side."""
    protocol = protocol_of(task, config.protocol)
    contrasts = config.contrasts or task.contrasts
    cache = FeatureCache(config.cache or default_folder(), extractor)
    cohort, parts, seen = embedded_cohort(task, contrasts, cache, config)
    views = (FUSED,) if extractor.channels else contrasts  # all in one pass, or one after the other
    features = {name: np.stack([_known(cache, case.scans[name]) for case in cohort.cases]) for name in views}
    if len(views) > 1:
        features[FUSED] = np.concatenate([features[name] for name in views], axis=1)

    def score(contrast: str) -> Scored:
        return scored_by(protocol, features[contrast], cohort, parts, config)

    curve = LabelCurve(task, protocol, cohort, parts, config)
    results = judge(task, list(features), cohort, parts, score, config)
    return Evaluation(
        task=task,
        encoder=config.name or extractor.name,
        fingerprint=extractor.fingerprint,
        protocol=config.protocol,
        selection=selection_of(config, "neighbours" if config.protocol == "knn" else "penalty"),
        settings={**settings_of(config, contrasts), "window": config.window, "pool": config.pool},
        excluded=cohort.excluded,
        results=[curve.added_to(result, features[result.contrast]) for result in results],
        seen_in_pretraining=seen,
        data_set=cohort.data_set,
        weights=weights_of(extractor.identity),
        attributes=cohort.attributes,
    )


def evaluate_clinical(task: Task, config: EvaluateConfig) -> Evaluation:
    """A probe of what the data set's table tells, without a look at any scan.

    Its score stands at every contrast, on the subjects who have it, so that it is compared with an encoder's of each.
    """
    contrasts, names = config.contrasts or task.contrasts, columns_of(config.encoder)
    cohort = find_cohort(task, config.root, contrasts, config.subjects)
    parts = None if config.split is None else split_parts(config.split, cohort)
    features = clinical_features(cohort.cases, names, task.label, config.root)
    protocol = protocol_of(task, config.protocol)

    @functools.cache
    def scored() -> Scored:
        return scored_by(protocol, features, cohort, parts, config)

    curve = LabelCurve(task, protocol, cohort, parts, config)
    views = [*contrasts, FUSED] if len(contrasts) > 1 else list(contrasts)
    fingerprint = weights_of(f"{CLINICAL} {','.join(names)}")
    return Evaluation(
        task=task,
        encoder=config.name or f"{CLINICAL}:{','.join(names)}",
        fingerprint=fingerprint,
        protocol=config.protocol,
        selection=selection_of(config, "neighbours" if config.protocol == "knn" else "penalty"),
        settings=settings_of(config, contrasts),
        excluded=cohort.excluded,
        results=[
            curve.added_to(result, features)
            for result in judge(task, views, cohort, parts, lambda view: scored(), config)
        ],
        seen_in_pretraining=0,
        data_set=cohort.data_set,
        weights=fingerprint,
        attributes=cohort.attributes,
    )


def evaluate_finetuned(task: Task, config: EvaluateConfig) -> Evaluation:
    """Fine-tuned networks, one for each contrast and one for all together."""
    contrasts = config.contrasts or task.contrasts
    backbone = open_backbone(config.encoder)
    options = config.finetune.from_scratch() if backbone.scratch else config.finetune
    folder = config.cache or default_folder()
    cache = FeatureCache(folder, InputExtractor(backbone))
    cohort, parts, seen = embedded_cohort(task, contrasts, cache, config)
    views: dict[str, tuple[str, ...]] = {
        name: (name,) for name in ((FUSED,) if backbone.channels else contrasts)
    }
    if len(views) > 1:
        views[FUSED] = tuple(contrasts)

    def score(view: str) -> Scored:
        study = Study(
            make_backbone=lambda: open_backbone(config.encoder),
            inputs=CachedInputs(
                [[cache.path(case.scans[name]) for name in views[view]] for case in cohort.cases]
            ),
            labels=cohort.labels,
            subjects=cohort.people,
            num_classes=task.num_classes,
            options=options,
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
        selection=selection_of(config, "epoch"),
        settings={**settings_of(config, contrasts), **options.fingerprint()},
        excluded=cohort.excluded,
        results=judge(task, list(views), cohort, parts, score, config),
        seen_in_pretraining=seen,
        data_set=cohort.data_set,
        weights=weights_of(backbone.identity),
        attributes=cohort.attributes,
    )


def settings_of(config: EvaluateConfig, contrasts: Sequence[str]) -> dict[str, Any]:
    """What might have been chosen otherwise, JSON-able."""
    chosen = {name: getattr(config, name) for name in ("folds", "repeats", "seed")}
    sizes = {"train_sizes": list(config.train_sizes), "draws": config.draws} if config.train_sizes else {}
    return {CONTRASTS_KEY: list(contrasts), "split": split_digest(config.split), **chosen, **sizes}


def embedded_cohort(
    task: Task,
    contrasts: Sequence[str],
    cache: FeatureCache,
    config: EvaluateConfig,
) -> tuple[Cohort, np.ndarray | None, int | None]:
    """The cohort of whom every scan is in the cache, each person once; the part of each; what was pre-trained on.

    For an encoder of several channels, the scans of a case are one, by the name of all contrasts together.

    Returns:
        The cohort; (N,) of train, val and test, None for cross-validation; and how many of the scored scans the encoder
        was pre-trained on, None if nobody knows.

    Raises:
        DataError: no scan can be embedded, or a split that cannot be used.
    """
    cohort = find_cohort(task, config.root, contrasts, config.subjects)
    channels, pretraining = cache.extractor.channels, cache.extractor.pretraining
    if channels:
        cohort = _as_sessions(cohort, contrasts, channels)
        contrasts = (FUSED,)
    if config.split is not None:  # what is wrong with it must not come out after hours of embedding
        cohort = within_split(config.split, cohort)
    failed = cache.fill(
        [case.scans[name] for case in cohort.cases for name in contrasts], workers=config.workers
    )
    for path, error in list(failed.items())[:SHOWN]:
        logger.warning("excluded: %s: %s", path, error.what)
    seen = [_contents(case, contrasts, failed, cache) for case in cohort.cases]
    cohort, contents = ready_cohort(cohort, seen, lambda own: own, config.root)
    kept = None if config.split is None else split_parts(config.split, cohort)
    if pretraining is None:
        return cohort, kept, None
    tested = np.flatnonzero(tested_rows(kept, len(contents)))
    hashes = {content for index in tested for content in contents[index]}
    return cohort, kept, len(overlap(dict(pretraining), hashes))


def _contents(
    case: Case, contrasts: Sequence[str], failed: Mapping[str, ScanError], cache: FeatureCache
) -> list[str] | str:
    """The hashes of a case's scans, or why one of them has no features."""
    scans = [case.scans[name] for name in contrasts]
    why = next((failed[str(scan.path)].what for scan in scans if str(scan.path) in failed), "")
    return why or [content for scan in scans for content in cache.content(scan).split(JOINT)]


def _as_sessions(cohort: Cohort, contrasts: Sequence[str], channels: Sequence[str]) -> Cohort:
    """Cases whose scans of these contrasts are one; raises `ConfigError` where none is a channel's."""
    cases = [
        replace(case, scans={FUSED: session_entry({name: case.scans[name] for name in contrasts}, channels)})
        for case in cohort.cases
    ]
    return replace(cohort, cases=cases)


def _known(cache: FeatureCache, scan: ScanEntry) -> np.ndarray:
    features = cache.read(scan)
    if features is None:
        raise DataError("its features are gone from the cache", where=scan.path, mend="repeat the command")
    if not np.isfinite(features).all():
        raise DataError(
            "its features are NaN or infinite", where=scan.path, mend="check the encoder's weights"
        )
    return features.astype(np.float64)


def selection_of(config: EvaluateConfig, chosen: str) -> str:
    """How anything was chosen, and what was scored, in words."""
    if config.split is not None:
        return f"{chosen} chosen on train and val subjects of {config.split.name}; test subjects scored once"
    widening = cross_validation_widening(config.folds)
    return (
        f"{config.repeats} x {config.folds}-fold cross-validation by subject; {chosen} chosen within each training "
        f"part; intervals over subjects, {widening:.2f} times as wide because models are refitted"
    )
