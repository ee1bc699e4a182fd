"""`mdae fit`: from labels to a model that is used, with the performance that is to be expected of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mdae.evaluation.features.extractors import Extractor, open_extractor
from mdae.evaluation.probing.cross_validation import choose, cross_validate, folds_by_subject
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.files import require_writable
from mdae.inference.config import FitConfig
from mdae.inference.encoders import bundle_encoder, encoder_record
from mdae.inference.fit_masks import fit_masks
from mdae.inference.fitted import FittedModel
from mdae.inference.heads import HEADS, Head
from mdae.inference.labelled import Labelled, gather, is_table
from mdae.inference.mask_cases import is_masks
from mdae.inference.masks import FittedMasks
from mdae.inference.novelty import Novelty
from mdae.inference.targets import Target, target_of
from mdae.networks.saved import manifest
from mdae.seeding import key


def fit(config: FitConfig) -> FittedModel | FittedMasks:
    """Fit what LABELS holds, write the folder, and say how well it does on new subjects.

    Raises:
        DataError: labels or scans that do not do, or too few subjects.
        ModelError, ConfigError: no such encoder, or what cannot be carried out.
    """
    masks = config.kind == "segmentation" or (
        config.kind == "auto" and not config.label and is_masks(config.labels)
    )
    return fit_masks(config) if masks else fit_table(config)


def fit_table(config: FitConfig) -> FittedModel:
    """Fit, write the folder, and say how well it does on new subjects.

    Raises:
        DataError: labels or scans that do not do, or too few subjects.
        ModelError, ConfigError: no such encoder, or what cannot be carried out.
    """
    require_writable(config.out)
    extractor = None if is_table(config.encoder) else _opened(config)
    labelled = gather(config, extractor)
    target = target_of(labelled, config.kind, config.labels, config.positive)
    target.require_enough(labelled.subjects, config.folds, config.labels)
    with threadpool_limits(1):  # hundreds of small fits: threads would wait for each other most of the time
        model = fit_features(labelled, target, config, _encoder(config, extractor, labelled))
    if config.bundle:
        bundle_encoder(config.encoder, config.out)
    model.save(config.out)
    return model


def _opened(config: FitConfig) -> Extractor:
    return open_extractor(config.encoder, window=config.window, pool=config.pool, device=config.device)


def _encoder(config: FitConfig, extractor: Extractor | None, labelled: Labelled) -> dict[str, Any]:
    """What the record says of whose features they are."""
    if extractor is None:
        return {"name": Path(config.encoder).name, "columns": labelled.columns}
    settings = {
        "window": getattr(extractor, "window", "slide"),
        "pool": getattr(extractor, "pool", "mean"),
        "channels": list(extractor.channels),
    }
    return encoder_record(
        config.encoder, extractor.name, extractor.identity, config.out, bundled=config.bundle, **settings
    )


def fit_features(
    labelled: Labelled, target: Target, config: FitConfig, encoder: dict[str, Any]
) -> FittedModel:
    """Choose, fit and calibrate on features; the expected performance is that of the whole procedure.

    Its choices are made again within each training part of the cross-validation, exactly as `mdae evaluate` makes them.
    """
    x, y, subjects = labelled.features, target.y, labelled.subjects
    protocol, widening = target.protocol, cross_validation_widening(config.folds)
    options: dict[str, Any] = {"folds": config.folds, "repeats": config.repeats, "seed": config.seed}
    scored = cross_validate(protocol, x, y, subjects, **options)
    chosen = choose(protocol, x, y, subjects, config.seed)
    outer = key(config.seed, "calibration") % 2**32
    splits = list(folds_by_subject(y, subjects, config.folds, outer, stratified=protocol.stratified))
    head = _head(target, x, chosen, splits)
    about = {
        "kind": target.kind,
        "label": labelled.label,
        "event": labelled.event,
        "contrasts": list(labelled.contrasts),
        "encoder": encoder,
        "head": head.about(),
        "chosen": {"strength": chosen, "of": list(protocol.candidates)},
        "expected": {
            "scores": {
                name: figure.to_dict()
                for name, figure in target.scores(scored, subjects, widening, config.seed).items()
            },
            "how": _how(config, widening),
        },
        "fitted_on": {
            "num_subjects": len(np.unique(subjects)),
            "num_rows": len(y),
            "subjects_by_label": target.counts(subjects),
            "subjects": manifest(subjects.tolist(), slow=True),
            "scans": manifest(labelled.contents),
        },
    }
    return FittedModel(head, Novelty.fit(x, splits), about, config.out, device=config.device)


def _head(target: Target, x: np.ndarray, chosen: float, splits: list[tuple[np.ndarray, np.ndarray]]) -> Head:
    kind = HEADS[target.kind]
    further = (target.classes,) if target.kind == "classification" else ()
    return kind.fit(x, target.y, chosen, splits, *further)


def _how(config: FitConfig, widening: float) -> str:
    """How the expected performance was found, in words."""
    return (
        f"{config.repeats} x {config.folds}-fold cross-validation by subject, the penalty chosen within each training "
        f"part; 95 % intervals over subjects, {widening:.2f} times as wide because models are refitted"
    )
