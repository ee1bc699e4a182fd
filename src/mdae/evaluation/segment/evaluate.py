"""`mdae evaluate --protocol voxels` and `segment`: how well a subject is segmented after a few masks.

`voxels` reads single voxels out of the frozen network, `segment` fine-tunes it from there. It takes minutes where
nnU-Net takes days, and asks what the network knows of places, which pooled features hide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from scipy.special import softmax

from mdae.data.ahead import ahead
from mdae.data.stack import JOINT
from mdae.errors import DataError, ScanError
from mdae.evaluation.cohort import Cohort, find_cohort, ready_cohort, split_digest, split_parts, within_split
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.draws import ALL, TrainingDraw, training_draws
from mdae.evaluation.features.extractors import weights_of
from mdae.evaluation.features.session import shown
from mdae.evaluation.nnunet.dataset import label_scheme, read_labels
from mdae.evaluation.nnunet.labels import LabelScheme, remapped
from mdae.evaluation.probing.cross_validation import folds_by_subject
from mdae.evaluation.results.schema import Evaluation, result_of_draws
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.encoders import Source, open_source
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.fitted import stacked
from mdae.evaluation.segment.scoring import Figures, label_names, score_voxels
from mdae.evaluation.segment.segmenter import (
    FittedSegmenter,
    draw_points,
    fit_points,
    fit_segmenter,
    shown_steps,
)
from mdae.evaluation.segment.volumes import (
    LabelledVolume,
    Volume,
    labelled,
    native_probabilities,
    on_mask,
    only,
    volume_of,
)
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.evaluation.voxel_probe.regression import Points
from mdae.networks.saved import overlap
from mdae.progress import Progress
from mdae.tasks.layouts import Case
from mdae.tasks.record import CONTRASTS_KEY, FUSED, Task
from mdae.text import counted

ROOM = 2**27  # numbers of scores of a volume at once, half a gigabyte
Scores = dict[
    tuple[str, int], dict[str, dict[str, list[Figures]]]
]  # by size and draw, view, subject: its volumes
Fits = dict[str, dict[tuple[str, int], FittedSegmenter]]  # by view, size and draw


def evaluate_few(task: Task, config: EvaluateConfig) -> Evaluation:
    """Learn from training subjects and score what is segmented of test subjects, on the masks' own voxels.

    Raises:
        ConfigError: an encoder that is not ours.
        DataError: what cannot be carried out.
    """
    source = open_source(config.encoder, config.device)
    contrasts = config.contrasts or task.contrasts
    cohort = find_cohort(task, config.root, contrasts, config.subjects)
    if config.split is not None:
        cohort = within_split(config.split, cohort)
    cohort, seen = _looked_at(cohort, source, contrasts, config)
    scheme = label_scheme(task, config.root, {value for one in seen for value in one.values})
    study = _Study(source, contrasts, config, scheme, cohort)
    scores: Scores = {}
    sizes: dict[str, list[int]] = {}
    notes: list[dict[str, Any]] = []
    contents: set[str] = set()
    for train, val, test in _folds(cohort, config):
        contents.update(content for index in test for content in seen[index].contents)
        drawn = list(
            training_draws(train, cohort.people, config.train_sizes or (ALL,), config.draws, config.seed)
        )
        for draw in drawn:
            sizes.setdefault(draw.wanted, []).append(draw.size)
        study.trials(drawn, val, test, scores, notes)
    known = source.pretraining
    return Evaluation(
        task=task,
        encoder=config.name or source.name,
        fingerprint=source.fingerprint,
        protocol=protocol_name(config),
        selection=_selection(config),
        settings=_settings(config, contrasts),
        excluded=cohort.excluded,
        results=[
            result_of_draws(
                task, view, {place: found[view] for place, found in scores.items()}, sizes, config
            )
            for view in study.views
        ],
        data_set=cohort.data_set,
        attributes=cohort.attributes,
        weights=weights_of(source.identity),
        fits=notes,
        seen_in_pretraining=None if known is None else len(overlap(dict(known), contents)),
    )


def protocol_name(config: EvaluateConfig) -> str:
    """With what is read beside the network: results with and without it are not of one protocol."""
    beside = config.protocol == "voxels" and config.with_position
    return f"{config.protocol}+position" if beside else config.protocol


def options_of(config: EvaluateConfig) -> FewLabelOptions:
    """Those of segmentation from few masks; the readout alone for `voxels`."""
    if config.protocol == "segment":
        return config.few
    return replace(config.few, steps=0, context=config.with_position)


@dataclass(frozen=True)
class _Seen:
    """Of one case: the values in its mask, and the hashes of its scans' voxels."""

    values: set[int]
    contents: list[str]


@dataclass(frozen=True)
class _Loaded:
    """A case whose files were all read: its mask as it lies in the file, and its scans, prepared."""

    mask: np.ndarray
    affine: np.ndarray
    scans: list[Any]

    @property
    def seen(self) -> _Seen:
        contents = [own for one in self.scans for own in one.record.content.split(JOINT)]
        return _Seen({int(value) for value in np.unique(self.mask)}, contents)

    def of(self, contrasts: tuple[int, ...]) -> list[Any]:
        """The scans of some contrasts; a session is one scan of all."""
        return self.scans if len(self.scans) == 1 else [self.scans[index] for index in contrasts]


def _load(case: Case, source: Source, contrasts: Sequence[str]) -> _Loaded:
    """Read a case; raises `ScanError` for anything of it that does not do."""
    mask, affine = read_labels(case)
    entries = shown(case.scans, contrasts, source.channels)
    scans = [on_mask(source.prepare(entry), entry, mask, affine) for entry in entries]
    return _Loaded(mask, affine, scans)


def _looked_at(
    cohort: Cohort, source: Source, contrasts: Sequence[str], config: EvaluateConfig
) -> tuple[Cohort, list[_Seen]]:
    """What was seen of every case that does, each scan once, and their cohort; `DataError` if none does."""
    seen: list[_Seen | str] = []
    with Progress("reading", len(cohort.cases), unit="subjects") as progress:
        loading = ahead(cohort.cases, lambda case: _load(case, source, contrasts).seen, config.workers)
        for _, loaded in loading:
            try:
                seen.append(loaded.result())
            except ScanError as error:
                seen.append(error.what)
            progress.advance(f"{sum(isinstance(own, str) for own in seen)} excluded")
    return ready_cohort(cohort, seen, lambda own: own.contents, config.root)


@dataclass(frozen=True)
class _Study:
    """What all fits share."""

    source: Source
    contrasts: Sequence[str]
    config: EvaluateConfig
    scheme: LabelScheme
    cohort: Cohort

    @cached_property
    def features(self) -> VoxelFeatures:
        """Of voxels, the same for all fits."""
        return self.source.features(options_of(self.config).context)

    @property
    def views(self) -> dict[str, tuple[int, ...]]:
        """Which contrasts are looked at together: all, and by `voxels` each alone before."""
        everything = tuple(range(len(self.source.channels or self.contrasts)))
        if self.source.channels:
            return {FUSED: everything}
        if len(everything) == 1:
            return {self.contrasts[0]: everything}
        alone = {name: (index,) for index, name in enumerate(self.contrasts)}
        return {**(alone if self.config.protocol == "voxels" else {}), FUSED: everything}

    def trials(
        self,
        drawn: Sequence[TrainingDraw],
        val: np.ndarray,
        test: np.ndarray,
        scores: Scores,
        notes: list[dict[str, Any]],
    ) -> None:
        """Fit every view on each draw's cases, and note the figures of each tested subject in `scores`.

        Readouts of the frozen maps share these: of whom some draw learns are read once, and all are fitted before
        anybody is tested. Fine-tuned networks are one at a time, for a copy of each would fill the memory.
        """
        if self.config.protocol == "voxels":
            self._test(self._readouts(drawn, val, notes), test, scores)
            return
        chosen = self._labelled(val)
        for draw in drawn:
            learned = self._labelled(draw.rows)
            fits: Fits = {view: {} for view in self.views}
            for view, contrasts in self.views.items():
                fits[view][draw.wanted, draw.draw] = self._fit(view, draw, learned, chosen, contrasts)
            notes += self._noted(draw, fits)
            self._test(fits, test, scores)

    def _readouts(self, drawn: Sequence[TrainingDraw], val: np.ndarray, notes: list[dict[str, Any]]) -> Fits:
        """Of every draw and view."""
        learned = np.unique(np.concatenate([draw.rows for draw in drawn]))
        points: dict[str, dict[int, Points]] = {view: {} for view in self.views}
        options, labels = options_of(self.config), label_names(self.scheme)
        for row, own in zip((*learned, *val), self._labelled(np.concatenate([learned, val])), strict=True):
            for view, contrasts in self.views.items():
                some = [only(own, contrasts)]
                (points[view][row],) = draw_points(
                    some, self.features, options.points, self.config.seed, first=int(row)
                )
        fits: Fits = {view: {} for view in self.views}
        for draw in drawn:
            for view, contrasts in self.views.items():
                own_points = [points[view][row] for row in draw.rows]
                chosen = [points[view][row] for row in val]
                fits[view][draw.wanted, draw.draw] = fit_points(
                    own_points, self.features, options, labels, len(contrasts), chosen
                )
            notes += self._noted(draw, fits)
        return fits

    def _noted(self, draw: TrainingDraw, fits: Fits) -> list[dict[str, Any]]:
        place = draw.wanted, draw.draw
        return [
            {"view": view, "size": draw.size, "draw": draw.draw, **own[place].notes}
            for view, own in fits.items()
        ]

    def _test(self, fits: Fits, test: np.ndarray, scores: Scores) -> None:
        for case, loaded in self._read(test, "segmenting"):
            for place, view, figures in self._scored(case, loaded, fits):
                found = scores.setdefault(place, {}).setdefault(view, {})
                found.setdefault(case.whose, []).append(figures)

    def _read(self, rows: np.ndarray, title: str) -> Iterator[tuple[Case, _Loaded]]:
        cases = [self.cohort.cases[row] for row in rows]
        with Progress(title, len(cases), unit="subjects") as progress:
            loading = ahead(cases, lambda case: _load(case, self.source, self.contrasts), self.config.workers)
            for case, loaded in loading:
                yield case, loaded.result()
                progress.advance()

    def _labelled(self, rows: np.ndarray) -> list[LabelledVolume]:
        return [
            labelled(
                case.whose,
                loaded.scans,
                remapped(loaded.mask, self.scheme, where=case.mask).astype(np.int16),
                ignore=self.scheme.ignore,
            )
            for case, loaded in self._read(rows, "reading masks")
        ]

    def _fit(
        self,
        view: str,
        draw: TrainingDraw,
        learned: Sequence[LabelledVolume],
        chosen: Sequence[LabelledVolume],
        contrasts: tuple[int, ...],
    ) -> FittedSegmenter:
        options, config = options_of(self.config), self.config
        title = f"{view} from {counted(draw.size, 'subject')}"
        with shown_steps(f"fitting {title}", options) as told:
            return fit_segmenter(
                [only(own, contrasts) for own in learned],
                self.source.model,
                options,
                label_names(self.scheme),
                val=[only(own, contrasts) for own in chosen],
                features=self.features,
                seed=config.seed,
                device=self.source.device,
                on_step=told,
            )

    def _scored(
        self, case: Case, loaded: _Loaded, fits: Fits
    ) -> Iterator[tuple[tuple[str, int], str, Figures]]:
        """The figures of a case by each fit of each view."""
        mask = remapped(loaded.mask, self.scheme, where=case.mask)
        x, y, z = (float(side) for side in voxel_sizes(loaded.affine))
        for view, contrasts in self.views.items():
            scans = loaded.of(contrasts)
            places = list(fits[view])
            called = self._probabilities(list(fits[view].values()), volume_of(scans))
            for place, probabilities in zip(places, called, strict=True):
                native = native_probabilities(probabilities, scans[0].record)
                yield (
                    place,
                    view,
                    score_voxels(native, mask, self.scheme, (x, y, z), dice_only=self.config.dice_only),
                )

    def _probabilities(self, fitted: Sequence[FittedSegmenter], volume: Volume) -> Iterator[np.ndarray]:
        """Of each in turn; readouts of the same frozen maps go through a volume together, as far as memory allows."""
        labels = len(fitted[0].labels)
        at_once = max(1, ROOM // (labels * math.prod(volume.shape)))
        for first in range(0, len(fitted), at_once):
            some = fitted[first : first + at_once]
            if some[0].network is not None:
                yield from (own.probabilities(volume) for own in some)
                continue
            scores = stacked(some, self.source.model, self.source.device).scores(volume)
            for own in np.split(scores, len(some)):
                yield np.asarray(softmax(own, axis=0), dtype=np.float32)


def _folds(cohort: Cohort, config: EvaluateConfig) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers of the training, of the val and of the test cases."""
    if config.split is not None:
        parts = split_parts(config.split, cohort)
        train, val, test = (np.flatnonzero(parts == name) for name in ("train", "val", "test"))
        return [(train, val, test)]
    number = len(set(cohort.people.tolist()))
    if number < config.folds:
        raise DataError(
            f"{counted(number, 'subject')} for {config.folds} folds",
            where=config.root,
            mend="give fewer --folds",
        )
    labels = np.zeros(len(cohort.cases))
    folds = folds_by_subject(labels, cohort.people, config.folds, config.seed, stratified=False)
    return [(train, np.zeros(0, dtype=int), test) for train, test in folds]


def _settings(config: EvaluateConfig, contrasts: Sequence[str]) -> dict[str, object]:
    split = split_digest(config.split)
    return {
        CONTRASTS_KEY: list(contrasts),
        "split": split,
        "folds": None if split else config.folds,
        "seed": config.seed,
        "train_sizes": list(config.train_sizes),
        "draws": config.draws if config.train_sizes else 1,
        **options_of(config).fingerprint(),
    }


def _selection(config: EvaluateConfig) -> str:
    """How anything was chosen, and what was scored, in words."""
    what = "the background's offset" + (
        " and the step of fine-tuning" if config.protocol == "segment" else ""
    )
    if config.split is not None:
        where = f"val subjects of {config.split.name}, or by inner folds of its train subjects where there are none"
        return f"{what} chosen on {where}; test subjects scored once"
    widening = cross_validation_widening(config.folds)
    return (
        f"{config.folds}-fold cross-validation by subject; {what} chosen by inner folds of each training part; "
        f"intervals over subjects, {widening:.2f} times as wide because models are refitted"
    )
