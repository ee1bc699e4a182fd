"""Which crop is sample number g of a run: a pure function of the seed and g.

An epoch takes every subject once, in a new order, one of its scans at random: a subject with forty scans counts
as much as one with a single scan. The state of the data is the number g, hence resuming is exact at no cost, and
nothing depends on the number of workers or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mdae.data.store import Store, StoredScan
from mdae.errors import DataError
from mdae.seeding import numpy_generator
from mdae.types import Shape3


@dataclass(frozen=True)
class Crop:
    """One sample's place: a scan and the corner of a crop in it, which may lie outside (padding)."""

    scan: StoredScan
    start: Shape3


class CropSampler:
    """Sample numbers to crops.

    Args:
        scans: the scans to draw from.
        size: the crop's sides in voxels.
        seed: the run's seed.
    """

    def __init__(self, scans: Sequence[StoredScan], size: Shape3, seed: int) -> None:
        if not scans:
            raise DataError("no scans to draw from", mend="prepare a store with at least two subjects")
        subjects: dict[str, list[StoredScan]] = {}
        for scan in sorted(scans, key=lambda scan: scan.scan_id):
            subjects.setdefault(scan.subject, []).append(scan)
        self.by_subject = [subjects[name] for name in sorted(subjects)]
        self.size = size
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return numpy_generator(self.seed, "epoch order", epoch).permutation(len(self.by_subject))

    def __call__(self, sample: int) -> Crop:
        """The crop of sample number `sample`."""
        epoch, position = divmod(sample, len(self.by_subject))
        scans = self.by_subject[int(self._order(epoch)[position])]
        rng = numpy_generator(self.seed, "crop", sample)
        scan = scans[int(rng.integers(len(scans)))]
        return Crop(scan, _random_start(scan.shape, self.size, rng))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._epoch_order)


def _random_start(shape: Shape3, size: Shape3, rng: np.random.Generator) -> Shape3:
    """A uniform corner along sides longer than the crop; the volume centred along the others."""
    starts = [
        int(rng.integers(side - edge + 1)) if side > edge else (side - edge) // 2
        for side, edge in zip(shape, size, strict=True)
    ]
    return starts[0], starts[1], starts[2]


class CropDataset:
    """A map from sample numbers to crops read from a store, for a `DataLoader` with any number of workers."""

    def __init__(self, store: Store, sampler: CropSampler) -> None:
        self.store = store
        self.sampler = sampler

    def __getitem__(self, sample: int) -> tuple[np.ndarray, int, str]:
        """The crop (1, D, H, W) in float16, its sample number and its scan's name."""
        crop = self.sampler(sample)
        return self.store.read_crop(crop.scan, crop.start, self.sampler.size)[None], sample, crop.scan.scan_id


def rank_batches(
    first_step: int, last_step: int, *, batch: int, micro_batch: int, rank: int, world: int
) -> Iterator[list[int]]:
    """The sample numbers of each micro-batch that a rank takes, from one step to another.

    Step s takes samples s * batch to (s + 1) * batch, dealt to the ranks in consecutive runs: every sample is
    taken once by one rank, whatever their number.
    """
    share = batch // world
    for step in range(first_step, last_step):
        start = step * batch + rank * share
        for offset in range(0, share, micro_batch):
            yield list(range(start + offset, start + min(offset + micro_batch, share)))
