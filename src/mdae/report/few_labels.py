"""What pre-training saves of labels: test subjects are segmented after 1, 2 and 4 labelled ones by frozen networks.

A network is read out voxel by voxel, its maps alone and beside place and intensities: after pre-training, and with the
weights that pre-training began with; and place and intensities are read out without any network. All see the same
voxels of the same labelled subjects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mdae.data.workers import num_cores
from mdae.evaluation.draws import TrainingDraw, training_draws
from mdae.evaluation.features.encoder import resolve_device
from mdae.evaluation.nnunet.dataset import read_labels
from mdae.evaluation.nnunet.labels import described_labels, remapped
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.fitted import voxel_features
from mdae.evaluation.segment.scoring import label_names
from mdae.evaluation.segment.segmenter import draw_points
from mdae.evaluation.segment.volumes import UNLABELLED, LabelledVolume, labelled, on_mask
from mdae.evaluation.statistics.overlap import dice
from mdae.evaluation.voxel_probe.regression import STRENGTH, Points, Readout, fit_readout
from mdae.interop.raw import prepare_by
from mdae.networks.saved import SavedModel
from mdae.progress import Progress
from mdae.report.labelled import Labelled
from mdae.seeding import numpy_generator
from mdae.tasks.case import Case
from mdae.tasks.nnunet_raw import channel_names, nnunet_raw, read_description

PRETRAINED, UNTRAINED, TRIVIAL = "pre-trained", "untrained", "place and intensities"
ALONE, BESIDE = "maps alone", "beside place and intensities"
DRAWS = 3  # of labelled subjects, nested and the same for all
POINTS = 200  # voxels of each label and subject that are learned from, a twelfth of what is usual
HELD_BACK = STRENGTH * FewLabelOptions.points / POINTS  # the usual penalty, for each point
MOST = 30_000  # voxels of a test subject that are scored


@dataclass(frozen=True)
class LabelledContrast:
    """Subjects with labels in one contrast, prepared.

    Attributes:
        name: of the contrast.
        labels: names of the labels' numbers, the background's first.
        learned, tested: subjects to learn from, and others.
    """

    name: str
    labels: tuple[str, ...]
    learned: list[LabelledVolume]
    tested: list[LabelledVolume]


def read_contrast(task: Path, data: Labelled) -> LabelledContrast:
    """Read and prepare what is labelled in a contrast.

    Raises:
        ScanError: a scan or mask that does not do.
    """
    about = read_description(task)
    scheme, (name,) = described_labels(about), channel_names(about)

    def read(case: Case) -> LabelledVolume:
        mask, affine = read_labels(case)
        entry = case.scans[name]
        scan = on_mask(prepare_by(entry, data.preprocessing), entry, mask, affine)
        numbers = remapped(mask, scheme, where=case.mask).astype(np.int16)
        return labelled(case.subject, scan, numbers, ignore=scheme.ignore)

    cases = {case.subject: case for case in nnunet_raw(task)}
    with Progress(f"reading labels of {name}", len(cases), unit="subjects") as progress:
        found = {}
        for subject, case in cases.items():
            found[subject] = read(case)
            progress.advance()
    learned, tested = ([found[subject] for subject in part] for part in (data.learned, data.tested))
    return LabelledContrast(name, tuple(map(_words, label_names(scheme))), learned, tested)


def _words(name: str) -> str:
    return name.replace("_", " ")


@dataclass(frozen=True)
class Curve:
    """How well test subjects are segmented, by the number of labelled ones.

    Attributes:
        contrast: segmented in.
        encoder: `PRETRAINED`, `UNTRAINED` or `TRIVIAL`.
        readout: `ALONE` or `BESIDE`; of `TRIVIAL`, which is no network's, the latter.
        dice: by the number of labelled subjects, (draws, N, L) of every test subject and label.
        shown: the first test subject as segmented after the most labelled ones of the first draw, (D, H, W).
    """

    contrast: str
    encoder: str
    readout: str
    dice: dict[int, np.ndarray]
    shown: np.ndarray

    def means(self, size: int) -> np.ndarray:
        """Over the labels, (draws, N)."""
        return np.asarray(self.dice[size].mean(axis=2))


def curves_of(
    contrast: LabelledContrast, models: Mapping[str, SavedModel], sizes: Sequence[int], seed: int
) -> Iterator[Curve]:
    """Learn and test all in a contrast.

    Args:
        contrast: who is learned from and tested.
        models: by name of the encoder.
        sizes: numbers of labelled subjects.
        seed: of draws and points.
    """
    names = np.array([own.subject for own in contrast.learned])
    draws = list(training_draws(np.arange(len(names)), names, list(map(str, sizes)), DRAWS, seed))
    device = resolve_device("auto")
    for index, (encoder, model) in enumerate(models.items()):
        features = voxel_features(model, True, device)
        maps = features.num_encoder
        views = {(encoder, ALONE): slice(0, maps), (encoder, BESIDE): slice(0, None)}
        if not index:  # the same beside any network
            views[TRIVIAL, BESIDE] = slice(maps, None)
        yield from _learned_and_tested(contrast, features, views, draws, seed)


def _learned_and_tested(
    contrast: LabelledContrast,
    features: VoxelFeatures,
    views: Mapping[tuple[str, str], slice],
    draws: Sequence[TrainingDraw],
    seed: int,
) -> Iterator[Curve]:
    """The curves of some columns of the features each; the features of a voxel are computed once for all."""
    points = draw_points(contrast.learned, features, POINTS, seed)
    fits = _fitted(points, views, draws, len(contrast.labels))
    shape = DRAWS, len(contrast.tested), len(contrast.labels) - 1
    found = {view: {draw.size: np.zeros(shape) for draw in draws} for view in views}
    who = ", ".join(dict.fromkeys(encoder for encoder, _ in views))
    with Progress(f"testing {who} in {contrast.name}", shape[1], unit="subjects") as progress:
        for index, own in enumerate(contrast.tested):
            voxels = _voxels(own, seed, index)
            known, labels = features.at(own.volume, voxels), own.labels[tuple(voxels.T)]
            for view, columns in views.items():
                for draw, called in zip(draws, _called(fits[view], known[:, columns]), strict=True):
                    found[view][draw.size][draw.draw, index] = _dice(called, labels, shape[2])
            progress.advance()
    most = max(range(len(draws)), key=lambda place: (draws[place].size, -draws[place].draw))
    for view, columns in views.items():
        shown = _segmented(contrast.tested[0], features, fits[view][most], columns)
        yield Curve(contrast.name, *view, found[view], shown)


def _fitted(
    points: Sequence[Points],
    views: Mapping[tuple[str, str], slice],
    draws: Sequence[TrainingDraw],
    num_labels: int,
) -> dict[tuple[str, str], list[Readout]]:
    """A readout of each view's columns for each draw, fitted side by side on the cores."""

    def fit(job: tuple[slice, TrainingDraw]) -> Readout:
        columns, draw = job
        some = [replace(points[row], features=points[row].features[:, columns]) for row in draw.rows]
        return fit_readout(some, num_labels, strength=HELD_BACK)

    jobs = list(itertools.product(views.values(), draws))
    with threadpool_limits(1), ThreadPoolExecutor(num_cores()) as pool:
        found = iter(list(pool.map(fit, jobs)))
    return {view: list(itertools.islice(found, len(draws))) for view in views}


def _voxels(own: LabelledVolume, seed: int, index: int) -> np.ndarray:
    """The voxels (P, 3) of a subject that are scored, `MOST` at most."""
    voxels = np.argwhere(_inside(own))
    drawn = numpy_generator(seed, "scored voxels", index).permutation(len(voxels))[:MOST]
    return voxels[np.sort(drawn)]


def _inside(own: LabelledVolume) -> np.ndarray:
    """What of a volume is neither background nor unlabelled, (D, H, W)."""
    somewhere = own.volume.data[0] != own.volume.background[0]
    return np.asarray((somewhere | (own.labels > 0)) & (own.labels != UNLABELLED))


def _called(readouts: Sequence[Readout], features: np.ndarray) -> Iterator[np.ndarray]:
    """The label (P,) of every point (P, F) by each readout, whose products are one."""
    weights = np.concatenate([readout.weights for readout in readouts]).astype(np.float32)
    scores = np.split(features @ weights.T, len(readouts), axis=1)
    yield from ((own + readout.biases).argmax(axis=1) for own, readout in zip(scores, readouts, strict=True))


def _dice(called: np.ndarray, labels: np.ndarray, number: int) -> list[float]:
    """Of each label but the background, of points (P,)."""
    one, other = called.reshape(-1, 1, 1), labels.reshape(-1, 1, 1)
    return [dice(one == label, other == label) for label in range(1, number + 1)]


def _segmented(own: LabelledVolume, features: VoxelFeatures, readout: Readout, columns: slice) -> np.ndarray:
    """A whole volume by a readout of some columns, (D, H, W); background where nothing is scored."""
    weights = np.zeros((len(readout.weights), features.number(1)))
    weights[:, columns] = readout.weights
    scores = features.linear(own.volume, weights) + readout.biases[:, None, None, None]
    return np.where(_inside(own), scores.argmax(axis=0), 0)
