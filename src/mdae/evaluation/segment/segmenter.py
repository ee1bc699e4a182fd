"""Fitting a segmenter: the readout, then fine-tuning, then whichever of them is better on subjects left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mdae.errors import DataError
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.finetune import Look, finetune
from mdae.evaluation.segment.fitted import FittedSegmenter, network_of, voxel_features
from mdae.evaluation.segment.network import SegmentationNetwork
from mdae.evaluation.segment.patches import Example
from mdae.evaluation.segment.volumes import UNLABELLED, LabelledVolume
from mdae.evaluation.voxel_probe.regression import Points, Readout, fit_readout
from mdae.networks.saved import SavedModel
from mdae.progress import Progress
from mdae.seeding import key, numpy_generator

__all__ = ["FittedSegmenter", "draw_points", "fit_points", "fit_segmenter"]

ALL_POINTS = 60_000  # of all volumes: more hardly move a linear function


@dataclass(frozen=True)
class _Study:
    """What every fit has in common: the inner ones and the last."""

    model: SavedModel
    features: VoxelFeatures
    options: FewLabelOptions
    num_labels: int
    num_contrasts: int
    seed: int
    device: str | torch.device
    on_step: Callable[[str], Callable[[int, str], None] | None]

    def start(
        self, points: Sequence[Points], val: Sequence[Points] = ()
    ) -> tuple[Readout, SegmentationNetwork]:
        """A readout, and the network that is it."""
        readout = fit_readout(points, self.num_labels, val=val)
        return readout, network_of(self.model, self.features, readout, self.num_contrasts, self.device)

    def tune(
        self,
        network: SegmentationNetwork,
        readout: Readout,
        train: Sequence[LabelledVolume],
        val: Sequence[LabelledVolume],
        what: str,
        until: int | None = None,
    ) -> list[Look]:
        """Fine-tune; the looks at val."""
        learned, chosen = (
            [Example(own, self.features.linear_of_context(own.volume, readout.weights)) for own in part]
            for part in (train, val)
        )
        seed, tell = key(self.seed, f"few labels {what}") % 2**32, self.on_step(what)
        return finetune(network, learned, chosen, self.options, seed=seed, until=until, on_step=tell)


@contextmanager
def shown_steps(
    title: str, options: FewLabelOptions
) -> Iterator[Callable[[str], Callable[[int, str], None]]]:
    """A line that says how far fine-tuning is, told by the `on_step` of `fit_segmenter` that this gives."""
    with Progress(title, options.steps, unit="steps") as progress:

        def begun(what: str) -> Callable[[int, str], None]:
            progress.restart()
            return lambda done, note: progress.update(done, f"{what} · {note}")

        yield begun


def fit_segmenter(
    subjects: Sequence[LabelledVolume],
    model: SavedModel | None,
    options: FewLabelOptions,
    labels: Sequence[str],
    *,
    val: Sequence[LabelledVolume] = (),
    features: VoxelFeatures | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_step: Callable[[str], Callable[[int, str], None] | None] = lambda what: None,
) -> FittedSegmenter:
    """Learn a segmentation from labelled volumes.

    What fine-tuning ends at, the readout that it starts from among it, is chosen on `val`. Without any it is chosen by
    inner folds of the subjects, and learned again from all of them. From one subject alone nothing can be chosen: the
    readout is what there is.

    Args:
        subjects: one volume or more, of one subject or more.
        model: a pre-trained model, whose contract the volumes were prepared by; None for place and intensities alone.
        options: how.
        labels: the names of the numbers from 0, the background.
        val: volumes of other subjects to choose by.
        features: of voxels; the model's, with place and intensities as `options` wants, if left out.
        seed: of all that is drawn.
        device: where to compute.
        on_step: told what is fine-tuned next; gives what is told of its steps, or None.

    Raises:
        DataError: no volume, or none with a label; contrasts that differ in number.
        TrainingError: fine-tuning diverged.
    """
    _check(subjects, val)
    features = features or voxel_features(model, options.context, device)
    points = draw_points(subjects, features, options.points, seed)
    chosen = draw_points(val, features, options.points, seed)
    contrasts = len(subjects[0].volume.data)
    if model is None:
        return fit_points(points, features, options, labels, contrasts, chosen)
    study = _Study(model, features, options, len(labels), contrasts, seed, device, on_step)
    readout, network = study.start(points, chosen)
    tuned = _tuned(study, network, readout, points, subjects, val)
    alone = _of_readout(readout, subjects, features, options, labels, contrasts)
    notes = {**alone.notes, **tuned.notes, "tuned": tuned.tuned}
    return replace(alone, network=network, tuned=tuned.tuned, notes=notes, held_out=tuned.held_out)


def fit_points(
    points: Sequence[Points],
    features: VoxelFeatures,
    options: FewLabelOptions,
    labels: Sequence[str],
    num_contrasts: int,
    val: Sequence[Points] = (),
) -> FittedSegmenter:
    """The readout alone, of points that were drawn before; many fits may share them.

    Args:
        points: of each volume, of `draw_points`; of many volumes only so many as `fit_segmenter` would draw count.
        features: what they are of.
        options, labels, num_contrasts: as above.
        val: of other subjects to choose by.

    Raises:
        DataError: no volume, or none with a label.
    """
    if not points:
        raise DataError("no labelled volume", mend="give one or more scans with a mask")
    some = [_first(own, _share(options.points, len(points), own.labels)) for own in points]
    readout = fit_readout(some, len(labels), val=val)
    return _of_readout(readout, points, features, options, labels, num_contrasts)


def _of_readout(
    readout: Readout,
    learned: Sequence[LabelledVolume | Points],
    features: VoxelFeatures,
    options: FewLabelOptions,
    labels: Sequence[str],
    num_contrasts: int,
) -> FittedSegmenter:
    """A segmenter that is a readout alone, of so many volumes of their subjects."""
    about = {"subjects": len({own.subject for own in learned}), "volumes": len(learned), "tuned": False}
    return FittedSegmenter(
        labels=tuple(labels),
        num_contrasts=num_contrasts,
        features=features,
        readout=readout,
        network=None,
        tuned=False,
        options=options,
        notes=about,
    )


def _share(number: int, volumes: int, labels: np.ndarray) -> int:
    """How many points of each label of a volume count, of so many volumes."""
    return max(1, min(number, ALL_POINTS // (volumes * max(1, len(np.unique(labels))))))


def _first(own: Points, number: int) -> Points:
    """The first points of each label, which were drawn in random order, in the place of all."""
    kept, stand_for = [], own.stand_for.copy()
    for label in np.unique(own.labels):
        there = np.flatnonzero(own.labels == label)
        kept.append(there[:number])
        stand_for[kept[-1]] *= len(there) / len(kept[-1])
    chosen = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
    return Points(own.subject, own.features[chosen], own.labels[chosen], stand_for[chosen])


def _check(subjects: Sequence[LabelledVolume], val: Sequence[LabelledVolume]) -> None:
    if not subjects:
        raise DataError("no labelled volume", mend="give one or more scans with a mask")
    if len({len(own.volume.data) for own in (*subjects, *val)}) > 1:
        raise DataError("subjects with different numbers of contrasts", mend="give every subject the same")
    if both := {own.subject for own in subjects} & {own.subject for own in val}:
        raise DataError(f"{min(both)} is both learned from and chosen by", mend="part them by subject")


@dataclass(frozen=True)
class _Tuned:
    """Whether fine-tuning was better than the readout, how it went, and what others' networks made of each volume."""

    tuned: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    held_out: np.ndarray | None = None


def _tuned(
    study: _Study,
    network: SegmentationNetwork,
    readout: Readout,
    points: Sequence[Points],
    subjects: Sequence[LabelledVolume],
    val: Sequence[LabelledVolume],
) -> _Tuned:
    """Fine-tune the network in place if that is better than the readout."""
    names = sorted({own.subject for own in subjects})
    if not study.options.steps:
        return _Tuned()
    if val:
        looks = study.tune(network, readout, subjects, val, "val")
        best = max(looks, key=lambda look: (look.mean, -look.step))
        return _Tuned(best.step > 0, _noted(looks, best, "validation subjects"))
    if len(names) < 2:
        why = "one labelled subject tells nothing of others: the readout is kept, and no Dice can be expected of it"
        return _Tuned(notes={"chosen_on": why})
    looks = _inner(study, points, subjects, names)
    best = max(looks, key=lambda look: (look.mean, -look.step))
    if best.step:
        study.tune(network, readout, subjects, (), "all", until=best.step)
    return _Tuned(best.step > 0, _noted(looks, best, "inner folds"), np.array(best.dice))


def _inner(
    study: _Study, points: Sequence[Points], subjects: Sequence[LabelledVolume], names: Sequence[str]
) -> list[Look]:
    """The looks at each volume by a network that learned from other subjects, put together by step."""
    folds = min(study.options.inner_folds, len(names))
    order = numpy_generator(study.seed, "inner folds").permutation(len(names))
    found: dict[int, dict[int, tuple[float, ...]]] = {}
    for fold in range(folds):
        out = {names[index] for index in order[fold::folds]}
        left = [index for index, own in enumerate(subjects) if own.subject not in out]
        readout, network = study.start([points[index] for index in left])
        tested = [index for index, own in enumerate(subjects) if own.subject in out]
        learned, others = ([subjects[index] for index in part] for part in (left, tested))
        for look in study.tune(network, readout, learned, others, f"fold {fold + 1}"):
            found.setdefault(look.step, {}).update(zip(tested, look.dice, strict=True))
    return [
        Look(step, tuple(own[index] for index in range(len(subjects))), float("nan"))
        for step, own in sorted(found.items())
    ]


def _noted(looks: Sequence[Look], best: Look, chosen_on: str) -> dict[str, Any]:
    """What is kept of the looks, JSON-able."""
    return {
        "chosen_on": chosen_on,
        "step": best.step,
        "readout_dice": looks[0].mean,
        "best_dice": best.mean,
        "looks": [[look.step, look.mean] for look in looks],
    }


def draw_points(
    subjects: Sequence[LabelledVolume], features: VoxelFeatures, number: int, seed: int, first: int = 0
) -> list[Points]:
    """Some voxels of each label and volume in random order, with their features.

    Args:
        subjects: of each volume.
        features: of voxels.
        number: of each label, fewer of many volumes.
        seed: of the draw.
        first: number of the first volume, of which the draw depends as well.
    """
    drawn = []
    for index, own in enumerate(subjects):
        rng = numpy_generator(seed, "voxels", first + index)
        present = np.unique(own.labels[own.labels != UNLABELLED])
        share = _share(number, len(subjects), present)
        places, stand_for = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for label in present.tolist():
            there = np.flatnonzero(own.labels == label)
            places.append(rng.choice(there, size=min(len(there), share), replace=False))
            stand_for.append(np.full(len(places[-1]), len(there) / len(places[-1])))
        voxels = np.stack(np.unravel_index(np.concatenate(places), own.labels.shape), axis=1)
        labels = own.labels[tuple(voxels.T)].astype(np.int64)
        found = features.at(own.volume, voxels)
        if not np.isfinite(found).all():
            raise DataError(
                f"{own.subject}: features are NaN or infinite",
                mend="check the encoder's weights and the scan",
            )
        drawn.append(Points(own.subject, found, labels, np.concatenate(stand_for)))
    return drawn
