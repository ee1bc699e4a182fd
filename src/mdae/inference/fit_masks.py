"""`mdae fit` of masks: from a few of them to a model that segments, with the Dice that is to be expected of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdae.data.ahead import ahead
from mdae.data.preprocess import PreparedScan
from mdae.data.stack import JOINT
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.extractors import is_own, model_name
from mdae.evaluation.features.session import shown
from mdae.evaluation.nnunet.dataset import read_labels
from mdae.evaluation.nnunet.labels import LabelScheme, remapped
from mdae.evaluation.segment.segmenter import FittedSegmenter, fit_segmenter, shown_steps
from mdae.evaluation.segment.volumes import LabelledVolume, labelled, on_mask
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, cross_validation_widening
from mdae.evaluation.statistics.overlap import dice
from mdae.evaluation.statistics.scores import mean_scores
from mdae.files import require_writable
from mdae.inference.config import FitConfig
from mdae.inference.encoders import bundle_encoder, encoder_record
from mdae.inference.mask_cases import Masks, find_masks
from mdae.inference.masks import FittedMasks
from mdae.interop.checkpoints import file_identity
from mdae.networks.hub import local_folder
from mdae.networks.saved import WEIGHTS, SavedModel, load_model, manifest
from mdae.progress import Progress
from mdae.seeding import numpy_generator
from mdae.tasks.layouts import Case
from mdae.text import counted

logger = logging.getLogger(__name__)
Read = tuple[list[PreparedScan], np.ndarray]


def fit_masks(config: FitConfig) -> FittedMasks:
    """Fit a segmenter, write the folder, and say what Dice is to be expected on new subjects.

    Raises:
        DataError: masks or scans that do not do.
        ModelError, ConfigError: an encoder that is not a model folder of ours.
    """
    require_writable(config.out)
    if not is_own(config.encoder):
        raise ConfigError(
            f"no voxels of {config.encoder} can be read", mend="give a model folder of mdae pretrain"
        )
    model = load_model(config.encoder)
    masks = find_masks(config, model.channels)
    encoder = Encoder(model, resolve_device(config.device))
    cases, read = _read_all(masks, encoder, config)
    scheme = masks.scheme({int(value) for _, mask in read for value in np.unique(mask)})
    numbers, names, values = _numbered(scheme)
    subjects = [
        labelled(
            case.subject, scans, numbers[remapped(mask, scheme, where=case.mask)], ignore=_ignored(scheme)
        )
        for case, (scans, mask) in zip(cases, read, strict=True)
    ]
    segmenter = _fit(subjects, model, names, config)
    about = {
        "kind": "segmentation",
        "label": "masks",
        "contrasts": list(masks.contrasts),
        "encoder": encoder_record(
            config.encoder,
            model_name(config.encoder),
            file_identity(local_folder(config.encoder) / WEIGHTS),
            config.out,
            bundled=config.bundle,
            channels=list(model.channels),
        ),
        "labels": {"names": names, "values": values},
        "expected": _expected(segmenter, subjects, model, names, config),
        "fitted_on": _who(subjects, read, names),
    }
    if config.bundle:
        bundle_encoder(config.encoder, config.out)
    fitted = FittedMasks(segmenter, encoder, about, config.out)
    fitted.save(config.out)
    return fitted


def _fit(
    subjects: Sequence[LabelledVolume], model: SavedModel, names: Sequence[str], config: FitConfig
) -> FittedSegmenter:
    device = resolve_device(config.device)
    people = counted(len({own.subject for own in subjects}), "subject")
    with shown_steps(f"fitting from {people}", config.few) as told:
        return fit_segmenter(
            subjects, model, config.few, names, seed=config.seed, device=device, on_step=told
        )


def _read_all(masks: Masks, encoder: Encoder, config: FitConfig) -> tuple[list[Case], list[Read]]:
    """The cases that can be read, their scans prepared and their masks; the others are named.

    Raises:
        DataError: none can be read.
    """

    def load(case: Case) -> Read:
        mask, affine = read_labels(case)
        entries = shown(case.scans, masks.contrasts, encoder.channels)
        return [on_mask(encoder.read(entry), entry, mask, affine) for entry in entries], mask

    kept, read, first = [], [], None
    with Progress("reading", len(masks.cases)) as progress:
        for case, found in ahead(masks.cases, load, config.workers):
            try:
                read.append(found.result())
                kept.append(case)
            except ScanError as error:
                first = first or error
                logger.warning("left out: %s", error)
            progress.advance()
    if first is not None and not kept:
        raise DataError(f"no case can be read, e.g. {first.what}", where=first.where, mend=first.mend)
    return kept, read


def _numbered(scheme: LabelScheme) -> tuple[np.ndarray, list[str], list[int]]:
    """From a scheme's values to the classes' numbers: a table to index by, the names, and the values in the files.

    Overlapping regions are learned as the labels that they are made of.
    """
    single = {values[0]: name for name, values in scheme.classes.items() if len(values) == 1}
    inside = sorted({v for v in scheme.values.values() if v not in (0, scheme.ignore)})
    back = {own: value for value, own in scheme.values.items()}
    order = sorted(inside, key=lambda own: back[own])
    table = np.zeros(max(scheme.values.values()) + 1, dtype=np.int32)
    for number, own in enumerate(order, start=1):
        table[own] = number
    if scheme.ignore is not None:
        table[scheme.ignore] = len(order) + 1
    names = ["background", *(single.get(own, f"label_{back[own]}") for own in order)]
    return table, names, [0, *(back[own] for own in order)]


def _ignored(scheme: LabelScheme) -> int | None:
    """The number that `_numbered` gives to voxels that nobody labelled."""
    if scheme.ignore is None:
        return None
    return len({v for v in scheme.values.values() if v not in (0, scheme.ignore)}) + 1


def _who(subjects: Sequence[LabelledVolume], read: Sequence[Read], names: Sequence[str]) -> dict[str, Any]:
    """Whom it was fitted on, as hashes, and how many have each class."""
    people = {own.subject for own in subjects}
    with_class = {
        name: len({own.subject for own in subjects if (own.labels == number).any()})
        for number, name in enumerate(names)
        if number
    }
    return {
        "num_subjects": len(people),
        "num_rows": len(subjects),
        "subjects_by_label": with_class,
        "subjects": manifest(people, slow=True),
        "scans": manifest(
            own for scans, _ in read for scan in scans for own in scan.record.content.split(JOINT)
        ),
    }


def _expected(
    segmenter: FittedSegmenter,
    subjects: Sequence[LabelledVolume],
    model: SavedModel,
    names: Sequence[str],
    config: FitConfig,
) -> dict[str, Any]:
    """The Dice of each subject by what was learned of others, with an interval where there are subjects enough.

    Fine-tuning's own inner folds tell it: to fine-tune for each subject anew would take five times as long.
    """
    people = np.array([own.subject for own in subjects])
    if len(np.unique(people)) < 2:
        how = "one labelled subject tells nothing of others: no Dice can be expected of it"
        return {"scores": {}, "how": how}
    if segmenter.held_out is None:
        folds = min(config.folds, len(np.unique(people)))
        return _with_intervals(
            _readouts_dice(subjects, people, folds, model, names, config), people, folds, config.seed
        )
    folds = min(config.few.inner_folds, len(np.unique(people)))
    chosen = ", which chose the step of fine-tuning as well"
    return _with_intervals(_by_label(segmenter.held_out, names), people, folds, config.seed, chosen)


def _by_label(dice_of: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Dice (V, K - 1) as the mean over labels and each label's, by name."""
    each = {f"dice_{name}": own for name, own in zip(names[1:], dice_of.T, strict=True)}
    return {"dice": np.nanmean(dice_of, axis=1), **each}


def _readouts_dice(
    subjects: Sequence[LabelledVolume],
    people: np.ndarray,
    folds: int,
    model: SavedModel,
    names: Sequence[str],
    config: FitConfig,
) -> dict[str, np.ndarray]:
    """The Dice of each volume by a readout of other subjects."""
    found = np.unique(people)
    order = numpy_generator(config.seed, "folds").permutation(found)
    figures = np.full((len(subjects), len(names) - 1), np.nan)
    for fold in range(folds):
        tested = np.isin(people, order[fold::folds])
        fitted = _fit(
            [own for own, out in zip(subjects, tested, strict=True) if not out], model, names, config
        )
        for index in np.flatnonzero(tested).tolist():
            called = fitted.probabilities(subjects[index].volume).argmax(axis=0)
            known = subjects[index].labels >= 0
            for number in range(1, len(names)):
                own = subjects[index].labels == number
                figures[index, number - 1] = dice((called == number) & known, own & known)
    return _by_label(figures, names)


def _with_intervals(
    values: dict[str, np.ndarray], people: np.ndarray, folds: int, seed: int, chosen: str = ""
) -> dict[str, Any]:
    number = len(np.unique(people))
    how = f"{folds}-fold cross-validation by subject, on prepared voxels{chosen}"
    if number < MIN_SUBJECTS:
        spread = f"; subjects from {np.nanmin(values['dice']):.3f} to {np.nanmax(values['dice']):.3f}"
        means = {name: float(np.nanmean(own)) for name, own in values.items()}
        return {
            "scores": {name: {"value": mean, "low": None, "high": None} for name, mean in means.items()},
            "how": f"{how}; {number} subjects are too few for an interval{spread}",
        }
    widening = cross_validation_widening(folds)
    found = mean_scores(values, people, widening=widening, seed=seed)
    return {
        "scores": {name: figure.to_dict() for name, figure in found.items()},
        "how": f"{how}; 95 % intervals over subjects, {widening:.2f} times as wide because models are refitted",
    }
