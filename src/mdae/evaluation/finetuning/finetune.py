"""Fine-tuning as a protocol: subjects scored by networks that never saw them, the epoch chosen on others again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mdae.devices import keep_freed_memory
from mdae.errors import ConfigError, DataError
from mdae.evaluation.features.encoder import resolve_device
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.finetuning.inputs import Inputs
from mdae.evaluation.finetuning.labels import labels_of
from mdae.evaluation.finetuning.loop import Epoch, Finetuner
from mdae.evaluation.probing.cross_validation import Scored, folds_by_subject
from mdae.files import atomic_write
from mdae.interop.backbone import Backbone
from mdae.progress import Progress
from mdae.seeding import key

VALIDATION = 5  # one part in so many of those that are not tested
STRATA = 4  # groups of neighbouring numbers, of which each part of a regression gets its share
FORMAT = 2  # of results on the disk; another one when the same options give other numbers


@dataclass(frozen=True)
class Finetuned(Scored):
    """Scores by fine-tuned networks. `chosen` is the epoch of each fit, 0 for the probe that it started from.

    Attributes:
        histories: the epochs of each fit.
    """

    histories: list[list[Epoch]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is fine-tuned on what.

    Attributes:
        make_backbone: a fresh pre-trained network, on the CPU; each fit trains one.
        inputs: (N, K, D, H, W), K contrasts of N rows.
        labels: (N,) of 0 to num_classes - 1, or numbers.
        subjects: (N,); all rows of a subject are in one part.
        options: how.
        num_classes: 0 of numbers.
        device: where.
        kept: a folder for the results of finished fits, so that the same call goes on after those; None for none.
    """

    make_backbone: Callable[[], Backbone]
    inputs: Inputs
    labels: np.ndarray
    subjects: np.ndarray
    options: FinetuneOptions
    num_classes: int = 2
    device: str = "auto"
    kept: Path | None = None

    def blank(self) -> np.ndarray:
        """NaN for each score: (N,), or (N, num_classes) of more than two."""
        columns = (self.num_classes,) if self.num_classes > 2 else ()
        return np.full((len(self.labels), *columns), np.nan)


def fit_and_score(
    study: Study, parts: np.ndarray, *, seed: int = 0, on_epoch: Callable[[Epoch], None] | None = None
) -> Finetuned:
    """Fine-tune on the train rows, stop by the val rows, score the test rows once.

    Args:
        study: what; the labels of test rows are not looked at.
        parts: (N,) of "train", "val", "test", or anything else for rows that are left alone.
        seed: of everything random; the same seed gives the same scores, bit for bit on a CPU.
        on_epoch: told of every epoch.

    Returns:
        Scores of the test rows, NaN for all others: log-odds for equally frequent classes (N,), of more than two each
        against the rest (N, K), or numbers like the labels.

    Raises:
        DataError: no train or val row, or a class without a train row.
        TrainingError: a loss or an output that is not finite.
        ConfigError: volumes that the device's memory does not hold.
    """
    train, val, test = (np.flatnonzero(parts == name) for name in ("train", "val", "test"))
    _check(study, train, val)
    labels, options = study.labels, study.options
    learned = labels_of(labels[train], study.num_classes, options)
    tuner = Finetuner(
        study.make_backbone(),
        study.inputs,
        labels,
        train,
        val,
        learned=learned,
        options=options,
        device=resolve_device(study.device),
        seed=seed,
    )
    try:
        history, best = tuner.fit(on_epoch)
        outputs = tuner.outputs(test)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device does not hold {options.at_once} volumes at once",
            where=tuner.backbone.name,
            mend="use --finetune.at-once 1" if options.at_once > 1 else "use a device with more memory",
        ) from error
    scores, probabilities = study.blank(), study.blank()
    scores[test] = learned.scores(outputs)
    known = labels[np.concatenate([train, val])]
    # epoch 0 is a probe, which no smoothed label was shown to
    probabilities[test] = learned.probabilities(outputs, known, smoothed=best > 0)
    return Finetuned(scores, probabilities, [float(best)], [history])


def _check(study: Study, train: np.ndarray, val: np.ndarray) -> None:
    if not len(train) or not len(val):
        raise DataError("no subject to train on, or none to stop by", mend="name some train and some val")
    there = len(np.unique(study.labels[train]))
    if there < study.num_classes:
        what = "one class" if there == 1 else f"{there} of {study.num_classes} classes"
        raise DataError(f"all train subjects are of {what}", mend="train on every class")


# -- several fits -------------------------------------------------------------------------------------------------


def cross_validate_finetune(study: Study, *, folds: int = 5, repeats: int = 1, seed: int = 0) -> Finetuned:
    """Each row scored by networks that never saw its subject, averaged over repeats with other folds and other seeds.

    From each training part a fifth of the subjects is set apart, of all classes alike, and stops the training.

    Args:
        study: what.
        folds, repeats, seed: of the outer cross-validation.
    """
    fits = []
    for repeat in range(repeats):
        outer = key(seed, "folds", repeat) % 2**32
        stratified = study.num_classes > 0
        split = folds_by_subject(study.labels, study.subjects, folds, outer, stratified=stratified)
        for fold, (_, test) in enumerate(split):
            parts = np.full(len(study.labels), "train", "<U5")
            parts[test] = "test"
            own = key(seed, "finetune", repeat, fold)
            fits.append((cut_validation(study, parts, own), own))
    return _all(study, fits)


def hold_out_finetune(study: Study, parts: np.ndarray, *, repeats: int = 1, seed: int = 0) -> Finetuned:
    """The test rows of a given split, scored by one network a repeat, averaged.

    Args:
        study: what.
        parts: (N,) of "train", "val", "test" or something else; without val rows they are cut from the train rows.
        repeats, seed: networks that differ in all that is random.
    """
    seeds = [key(seed, "finetune", repeat, 0) for repeat in range(repeats)]
    given = "val" in parts
    return _all(study, [(parts if given else cut_validation(study, parts, own), own) for own in seeds])


def cut_validation(study: Study, parts: np.ndarray, seed: int) -> np.ndarray:
    """The same parts, but a fifth of the train subjects is val; each class, or quarter of the numbers, gives alike.

    Raises:
        DataError: too few train subjects to part.
    """
    train = np.flatnonzero(parts == "train")
    strata, subjects = study.labels[train], study.subjects[train]
    if not study.num_classes:
        ranks = strata.argsort(kind="stable").argsort(kind="stable")
        strata = ranks * STRATA // max(1, len(train))
    fewest = min((len(np.unique(subjects[strata == one])) for one in np.unique(strata)), default=0)
    if fewest < 2:
        raise DataError(
            "too few subjects to set some apart for stopping", mend="label more, or give a split with val"
        )
    inner = key(seed, "validation") % 2**32
    _, val = next(folds_by_subject(strata, subjects, min(VALIDATION, fewest), inner))
    out = parts.copy()
    out[train[val]] = "val"
    return out


def _all(study: Study, fits: Sequence[tuple[np.ndarray, int]]) -> Finetuned:
    """The mean over fits, each of parts and a seed; those that are kept are not repeated."""
    if resolve_device(study.device).type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes hardly change
    else:
        keep_freed_memory()
    each = study.options.epochs  # a fit that stops early jumps to its end
    results, left = {}, []
    for number, fit in enumerate(fits):
        result = _read(study, *fit)
        if result is None:
            left.append(number)
        else:
            results[number] = result
    with Progress("fine-tuning", len(fits) * each, done=len(results) * each, unit="epochs") as progress:
        for number in left:
            before = len(results) * each

            def tell(epoch: Epoch, before: int = before, number: int = number) -> None:
                figures = f"loss {epoch.train_loss:.3f} · validation {epoch.val_quality:.3f}"
                progress.update(before + epoch.epoch, f"fit {number + 1} of {len(fits)} · {figures}")

            parts, seed = fits[number]
            results[number] = fit_and_score(study, parts, seed=seed, on_epoch=tell)
            _write(study, parts, seed, results[number])
            progress.update(before + each)
    return _mean([results[number] for number in range(len(fits))])


def _mean(results: Sequence[Finetuned]) -> Finetuned:
    """Means over the results that have a row; NaN for rows that none has."""
    return Finetuned(
        _mean_known(np.stack([result.scores for result in results])),
        _mean_known(np.stack([result.probabilities for result in results])),
        [epoch for result in results for epoch in result.chosen],
        [history for result in results for history in result.histories],
    )


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Means over the first axis of the values that are not NaN."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.asarray(np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan))


# -- results on the disk ------------------------------------------------------------------------------------------


def _path(study: Study, parts: np.ndarray, seed: int) -> Path | None:
    """A fit's file, named by all that its result depends on; None if nothing is kept."""
    if study.kept is None:
        return None
    fit = [study.labels.tolist(), parts.tolist(), seed]
    kind = "classification" if study.num_classes else "regression"
    about = [FORMAT, study.inputs.fingerprint, kind, study.options.fingerprint(), *fit]
    return study.kept / (hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32] + ".json")


def _write(study: Study, parts: np.ndarray, seed: int, result: Finetuned) -> None:
    if (path := _path(study, parts, seed)) is None:
        return
    rows = np.flatnonzero(parts == "test")
    about = {
        "scores": result.scores[rows].tolist(),
        "probabilities": result.probabilities[rows].tolist() if study.num_classes else None,
        "chosen": result.chosen,
        "histories": [[asdict(epoch) for epoch in history] for history in result.histories],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(about) + "\n")


def _read(study: Study, parts: np.ndarray, seed: int) -> Finetuned | None:
    """A finished fit's result; a file that cannot be read is as good as none."""
    if (path := _path(study, parts, seed)) is None:
        return None
    scores, probabilities = study.blank(), study.blank()
    try:
        about = json.loads(path.read_text())
        scores[parts == "test"] = about["scores"]
        if about["probabilities"] is not None:
            probabilities[parts == "test"] = about["probabilities"]
        histories = [[Epoch(**epoch) for epoch in history] for history in about["histories"]]
        return Finetuned(scores, probabilities, about["chosen"], histories)
    except (OSError, ValueError, KeyError, TypeError):
        return None
