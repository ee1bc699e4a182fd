"""`mdae evaluate --protocol voxels`: how well a linear readout of single voxels segments, the encoder being frozen.

It asks what the encoder knows of places, which pooled features hide, and takes minutes where nnU-Net takes days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from sklearn.metrics import average_precision_score

from mdae.data.ahead import ahead
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.cohort import Cohort, copies, find_cohort, split_digest, split_parts
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.extractors import EncoderExtractor, Extractor, weights_of
from mdae.evaluation.nnunet.dataset import label_scheme, read_labels, require_same_grid
from mdae.evaluation.nnunet.labels import LabelScheme, remapped
from mdae.evaluation.probing.cross_validation import folds_by_subject
from mdae.evaluation.results.schema import Evaluation, result_of_subjects
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.evaluation.statistics.overlap import dice, surface_dice
from mdae.evaluation.voxel_probe.readout import Points, Subject, draw_points, fit_readout, segment
from mdae.networks.saved import overlap
from mdae.progress import Progress
from mdae.seeding import numpy_generator
from mdae.tasks.layouts import Case
from mdae.tasks.record import FUSED, Task
from mdae.types import Spacing

POINTS = 1000  # of a subject to learn from, half of them background
ALL_POINTS = 100_000  # of all subjects: more hardly move a line
TOLERANCE_MM = 1.0  # of the NSD
Figures = dict[str, float]


def evaluate_voxels(task: Task, config: EvaluateConfig, extractor: Extractor) -> Evaluation:
    """Fit lines on voxels of training subjects and score what they segment of test subjects, on the masks' own voxels.

    Raises:
        ConfigError: an encoder that is not ours.
        DataError: what cannot be carried out.
    """
    if not isinstance(extractor, EncoderExtractor):
        raise ConfigError(
            f"no voxels of {extractor.name} can be read",
            mend="--protocol voxels is for encoders of mdae pretrain, and untrained:",
        )
    modalities = config.modalities or task.modalities
    cohort = find_cohort(task, config.root, modalities)
    if config.split is not None:
        parts = split_parts(config.split, cohort)
        cohort = cohort.without({int(i): f"not in {config.split.name}" for i in np.flatnonzero(parts == "")})
    cohort, sampled = _sampled(cohort, extractor.encoder, modalities, config)
    values = {int(value) for own in sampled for value in np.unique(own.points.values)}
    study = _Study(extractor.encoder, modalities, config, label_scheme(task, config.root, values))
    scores: dict[str, dict[str, Figures]] = {view: {} for view in study.views}
    contents: set[str] = set()
    for train, test in _folds(cohort, config):
        contents.update(content for index in test for content in sampled[index].contents)
        learned_from = [sampled[index].points for index in train]
        for subject, found in study.trial(learned_from, [cohort.cases[index] for index in test]):
            for view, figures in found.items():
                scores[view][subject] = figures
    known = extractor.pretraining
    return Evaluation(
        task=task,
        encoder=config.name or extractor.name,
        fingerprint=extractor.fingerprint,
        protocol=config.protocol,
        selection=_selection(config),
        settings=_settings(config, modalities),
        left_out=cohort.left_out,
        results=[result_of_subjects(task, view, found, config) for view, found in scores.items()],
        data_set=cohort.data_set,
        weights=weights_of(extractor.identity),
        seen_in_pretraining=None if known is None else len(overlap(dict(known), contents)),
    )


@dataclass(frozen=True)
class _Sampled:
    """Of one subject: what is learned from, and the hashes of its scans' voxels."""

    points: Points
    contents: list[str]


def _load(case: Case, encoder: Encoder, modalities: Sequence[str]) -> Subject:
    """Read a case; raises `ScanError` for anything of it that does not do."""
    mask, affine = read_labels(case)
    scans = {name: encoder.prepare(case.scans[name]) for name in modalities}
    for name, scan in scans.items():
        shape, own = scan.record.source_shape, np.array(scan.record.source_affine)
        require_same_grid(case.scans[name], shape, own, mask, affine)
    return Subject(mask, affine, scans)


def _sampled(
    cohort: Cohort, encoder: Encoder, modalities: Sequence[str], config: EvaluateConfig
) -> tuple[Cohort, list[_Sampled]]:
    """Points of every subject that does, each person once, and the cohort of these; raises `DataError` if none does."""
    unfit: dict[int, str] = {}
    sampled: list[_Sampled] = []
    wanted = min(POINTS, ALL_POINTS // len(cohort.cases))
    with Progress("reading voxels", len(cohort.cases), unit="subjects") as progress:
        loading = ahead(cohort.cases, lambda case: _load(case, encoder, modalities), config.workers)
        for index, (_, subject) in enumerate(loading):
            rng = numpy_generator(config.seed, "voxels", index)
            try:
                points = draw_points(encoder, subject.result(), wanted, rng)
                contents = [scan.record.content for scan in subject.result().scans.values()]
                sampled.append(_Sampled(points, contents))
            except ScanError as error:
                unfit[index] = error.what
            progress.advance(f"{len(unfit)} left out")
    cohort = cohort.without(unfit)
    twice = copies(cohort, [own.contents for own in sampled])
    cohort, sampled = cohort.without(twice), [own for i, own in enumerate(sampled) if i not in twice]
    if not sampled:
        why = ", ".join(f"{number} with {reason}" for reason, number in cohort.left_out.items())
        raise DataError(f"nobody is left: {why}", where=config.root, mend="look at the files")
    return cohort, sampled


@dataclass(frozen=True)
class _Study:
    """What all folds share."""

    encoder: Encoder
    modalities: Sequence[str]
    config: EvaluateConfig
    scheme: LabelScheme

    @property
    def views(self) -> dict[str, tuple[str, ...]]:
        """Whose features stand side by side: each modality's alone, and all together."""
        together = {FUSED: tuple(self.modalities)} if len(self.modalities) > 1 else {}
        return {**{name: (name,) for name in self.modalities}, **together}

    def trial(
        self, learned_from: Sequence[Points], tested: Sequence[Case]
    ) -> Iterator[tuple[str, dict[str, Figures]]]:
        """The figures of each tested subject, by view."""
        readouts = {view: fit_readout(learned_from, names, self.scheme) for view, names in self.views.items()}
        with Progress("segmenting", len(tested), unit="subjects") as progress:
            loading = ahead(
                tested, lambda case: _load(case, self.encoder, self.modalities), self.config.workers
            )
            for case, loaded in loading:
                subject = loaded.result()
                mask = remapped(subject.mask, self.scheme, where=case.mask)
                x, y, z = (float(side) for side in voxel_sizes(subject.affine))
                yield (
                    case.subject,
                    {
                        view: score_voxels(odds, readouts[view].thresholds, mask, self.scheme, (x, y, z))
                        for view, odds in segment(self.encoder, subject, readouts, self.views).items()
                    },
                )
                progress.advance()


def score_voxels(
    odds: np.ndarray, thresholds: np.ndarray, mask: np.ndarray, scheme: LabelScheme, spacing_mm: Spacing
) -> Figures:
    """Dice, NSD and average precision of one subject: the means over the classes, then each.

    Average precision asks how well voxels are ranked, so that no threshold spoils it; it is NaN without a voxel of the
    class.

    Args:
        odds: (K, D, H, W) of the classes.
        thresholds: (K,).
        mask: (D, H, W) of the scheme's values.
        scheme: classes, and the value that is not scored.
        spacing_mm: of the voxels.
    """
    counted = mask != (-1 if scheme.ignore is None else scheme.ignore)
    means, each = {}, {}
    for name, own, threshold in zip(scheme.classes, odds, thresholds, strict=True):
        reference, called = np.isin(mask, scheme.classes[name]) & counted, (own >= threshold) & counted
        each[f"dice_{name}"] = dice(called, reference)
        each[f"nsd_{name}"] = surface_dice(called, reference, spacing_mm, TOLERANCE_MM)
        there = reference.any()
        each[f"average_precision_{name}"] = (
            float(average_precision_score(reference[counted], own[counted])) if there else float("nan")
        )
    for figure in ("dice", "nsd", "average_precision"):
        known = [each[f"{figure}_{name}"] for name in scheme.classes]
        known = [value for value in known if not np.isnan(value)]
        means[figure] = float(np.mean(known)) if known else float("nan")
    return {**means, **each}


def _folds(cohort: Cohort, config: EvaluateConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the training and of the test subjects."""
    if config.split is not None:
        parts = split_parts(config.split, cohort)
        return [(np.flatnonzero(parts != "test"), np.flatnonzero(parts == "test"))]
    number = len(cohort.cases)
    if number < config.folds:
        raise DataError(
            f"{number} subjects for {config.folds} folds", where=config.root, mend="give fewer --folds"
        )
    return list(
        folds_by_subject(np.zeros(number), cohort.subjects, config.folds, config.seed, stratified=False)
    )


def _settings(config: EvaluateConfig, modalities: Sequence[str]) -> dict[str, object]:
    split = split_digest(config.split)
    return {
        "modalities": list(modalities),
        "split": split,
        "folds": None if split else config.folds,
        "seed": config.seed,
    }


def _selection(config: EvaluateConfig) -> str:
    """How anything was chosen, and what was scored, in words."""
    chosen = "the score from which on a voxel is called a class's is chosen on"
    if config.split is not None:
        return f"{chosen} train and val subjects of {config.split.name}; test subjects scored once"
    widening = cross_validation_widening(config.folds)
    return (
        f"{config.folds}-fold cross-validation by subject; {chosen} each training part; intervals over subjects, "
        f"{widening:.2f} times as wide because models are refitted"
    )
