"""Segmentations told voxel by voxel at each validation: a linear readout of the encoder, Dice on those held out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdae.data.formats import is_scan, scan_stem
from mdae.data.native import labels_on_grid
from mdae.data.stack import Stack, read
from mdae.data.store import StoredScan
from mdae.errors import DataError
from mdae.evaluation.nnunet.dataset import read_labels
from mdae.evaluation.online.probe import encoder_of
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS
from mdae.evaluation.statistics.overlap import dice
from mdae.evaluation.statistics.scores import mean_scores
from mdae.evaluation.voxel_probe.features import MapSource, features_at, read_out
from mdae.evaluation.voxel_probe.regression import Points, fit_readout
from mdae.seeding import numpy_generator
from mdae.tasks.layouts import Case
from mdae.training.diagnostics import Diagnostic, Moment
from mdae.training.diagnostics.rising import PATIENCE, Rising
from mdae.training.run import Run

MOST = 12  # subjects of each part: a look should take seconds, not minutes
POINTS = 300  # voxels of each label and volume that the readout is fitted on
ENDINGS = ("_mask", "_seg", "_dseg", "_label", "_labels", "_lesion", "_roi")
ENTITIES = re.compile(r"_(label|desc|space|res)-[A-Za-z0-9]+")  # of BIDS, in the names of its masks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Masked:
    """A scan with its segmentation, on the scan's prepared grid.

    Attributes:
        scan: of the store, or the session that it is a channel of.
        labels: (D, H, W) from 0, the background.
    """

    scan: StoredScan | Stack
    labels: np.ndarray


def voxel_probe(run: Run, folder: Path) -> Diagnostic:
    """The probe of the masks in a folder.

    Raises:
        DataError: no such folder, too few masks of scans of the store, or masks on other grids.
    """
    found = _with_masks(run, folder)
    parts = {part: [m for m in found if run.parts[m[0].subject] == part][:MOST] for part in ("train", "val")}
    for part, wanted in (("train", 1), ("val", MIN_SUBJECTS)):
        if len(parts[part]) < wanted:
            raise DataError(
                f"{len(parts[part])} subjects with masks are {'held out' if part == 'val' else 'trained on'}, and the "
                f"probe needs {wanted}",
                where=folder,
                mend="name masks as the scans are named, or hold out another share",
            )
    masked = {part: [_read(run, *row) for row in rows] for part, rows in parts.items()}
    values = sorted({int(v) for m in (*masked["train"], *masked["val"]) for v in np.unique(m.labels)} | {0})
    if len(values) < 2:
        raise DataError("masks without any label", where=folder, mend="give others")
    places = {value: place for place, value in enumerate(values)}
    for rows in masked.values():
        for own in rows:
            own.labels[:] = np.vectorize(places.__getitem__, otypes=[np.int16])(own.labels)
    return VoxelProbe(run, masked["train"], masked["val"], len(values))


def _with_masks(run: Run, folder: Path) -> list[tuple[StoredScan, Stack | None, Path]]:
    """One scan a subject, the session if it is a channel of that, and the mask of its name."""
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, mend="give the folder of the masks")
    masks: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_scan(path):
            masks.setdefault(_bare(scan_stem(path)), path)
    found: dict[str, tuple[StoredScan, Stack | None, Path]] = {}
    listed: list[tuple[StoredScan, Stack | None]] = []
    for scan in run.scans:
        listed += [(own, scan) for own in scan.present] if isinstance(scan, Stack) else [(scan, None)]
    for scan, stack in sorted(listed, key=lambda row: row[0].scan_id):
        own = scan_stem(Path(scan.source))
        names = (scan.scan_id, own, own.rpartition("_")[0], scan.subject, f"sub-{scan.subject}")
        for name in names:
            if name in masks:
                found.setdefault(scan.subject, (scan, stack, masks[name]))
    return [found[subject] for subject in sorted(found)]


def _bare(stem: str) -> str:
    """A mask's name without what says that it is one."""
    stem = ENTITIES.sub("", stem)
    return next((stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)), stem)


def _read(run: Run, scan: StoredScan, stack: Stack | None, path: Path) -> Masked:
    record = run.store.record(scan)
    mask, affine = read_labels(Case(scan.subject, {}, mask=path))
    if mask.shape != tuple(record.source_shape) or not np.allclose(affine, record.source_affine, atol=1e-2):
        raise DataError(
            f"a mask of {mask.shape} voxels on another grid than its scan's {tuple(record.source_shape)}",
            where=path,
            mend="resample it to the scan",
        )
    return Masked(stack or scan, labels_on_grid(mask.astype(np.int16), record, None))


class VoxelProbe:
    """The mean Dice over labels and held-out subjects.

    Args:
        run: whose.
        train, held_out: subjects with masks.
        num_labels: with the background.
    """

    table = "voxels"

    def __init__(
        self, run: Run, train: Sequence[Masked], held_out: Sequence[Masked], num_labels: int
    ) -> None:
        self.run, self.train, self.held_out, self.num_labels = run, train, held_out, num_labels
        self.rising: Rising | None = None
        self.said = False

    def look(self, moment: Moment) -> Mapping[str, float]:
        """`dice`, `low` and `high` of its 95 % interval, and for how many looks it has not risen."""
        encoder, world = encoder_of(moment), moment.world
        mine = range(world.place.rank, len(self.train), world.size)
        drawn = {index: self._points(encoder, index) for index in mine}
        points = {index: own for part in world.everywhere(drawn) for index, own in part.items()}
        readout = fit_readout([points[index] for index in range(len(self.train))], self.num_labels)
        scored = {}
        for index in range(world.place.rank, len(self.held_out), world.size):
            own = self.held_out[index]
            maps = read_out(encoder, self._volume(own), own.scan.background, readout.weights)
            called = (maps + readout.biases[:, None, None, None]).argmax(axis=0)
            scored[index] = self._dice(called, own.labels)
        everyone = {index: value for part in world.everywhere(scored) for index, value in part.items()}
        if not world.lead:
            return {}
        subjects = np.array([own.scan.subject for own in self.held_out])
        values = np.array([everyone[index] for index in range(len(subjects))])
        estimate = mean_scores({"dice": values}, subjects)["dice"]
        return self._row(moment.step, estimate.value, estimate.low, estimate.high)

    def _row(self, step: int, value: float, low: float, high: float) -> dict[str, float]:
        if self.rising is None:
            self.rising = Rising("dice")
            self.rising.take_up(self.run.config.out / f"{self.table}.csv", step)
        since = self.rising.add(step, value, low, high)
        if since >= PATIENCE and not self.said:
            logger.warning(
                "step %d: the voxel probe has not risen for %d looks; its best Dice was %.3f at step %d (voxels.csv)",
                *(step, since, self.rising.best, self.rising.best_step),
            )
        self.said = since >= PATIENCE
        return {"dice": value, "low": low, "high": high, "looks_since_best": float(since)}

    def _dice(self, called: np.ndarray, labels: np.ndarray) -> float:
        """The mean over the labels that a subject has."""
        there = [label for label in range(1, self.num_labels) if (labels == label).any()]
        return (
            float(np.mean([dice(called == label, labels == label) for label in there])) if there else np.nan
        )

    def _volume(self, own: Masked) -> np.ndarray:
        return read(self.run.store, own.scan).astype(np.float32)

    def _points(self, encoder: MapSource, index: int) -> Points:
        """Voxels of each label, always the same, with their features."""
        own, chosen, stand_for = self.train[index], [], []
        rng = numpy_generator(self.run.config.seed, "probed voxels", index)
        for label in np.unique(own.labels).tolist():
            there = np.flatnonzero(own.labels == label)
            some = np.sort(rng.choice(there, size=min(len(there), POINTS), replace=False))
            chosen.append(some)
            stand_for.append(np.full(len(some), len(there) / len(some)))
        voxels = np.stack(np.unravel_index(np.concatenate(chosen), own.labels.shape), axis=1)
        features = features_at(encoder, self._volume(own), own.scan.background, voxels)
        labels = own.labels[tuple(voxels.T)].astype(np.int64)
        return Points(own.scan.subject, features, labels, np.concatenate(stand_for))
