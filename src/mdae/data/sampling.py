"""Which crop is sample number g of a run: a pure function of the seed and g.

An epoch takes every subject once, in a new order, one of its scans at random: a subject with forty scans counts
as much as one with a single scan. Contrasts may weigh more or less in the choice among a subject's scans. The state
of the data is the number g, hence resuming is exact at no cost, and nothing depends on the number of workers or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mdae.data.stack import Stack, backgrounds, read_crop
from mdae.data.store import Store, StoredScan
from mdae.errors import DataError
from mdae.foreground import is_foreground
from mdae.seeding import numpy_generator
from mdae.types import Shape3

ATTEMPTS = 8  # at a crop with enough foreground


@dataclass(frozen=True)
class Crop:
    """One sample's place: a scan and the corner of a crop in it, which may lie outside (padding)."""

    scan: StoredScan | Stack
    start: Shape3


class CropSampler:
    """Sample numbers to crops.

    Args:
        scans: the scans to draw from, or sessions whose scans are channels.
        size: the crop's sides in voxels.
        seed: the run's seed.
        weights: by contrast, how often its scans are chosen among a subject's; 1 if not given, 0 for never.
    """

    def __init__(
        self,
        scans: Sequence[StoredScan | Stack],
        size: Shape3,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.weights = dict(weights or {})
        subjects: dict[str, list[StoredScan | Stack]] = {}
        for scan in sorted(scans, key=lambda scan: scan.scan_id):
            if self.weights.get(scan.contrast, 1.0) > 0:
                subjects.setdefault(scan.subject, []).append(scan)
        if not subjects:
            raise DataError("no scans to draw from", mend="prepare a store with at least two subjects")
        self.by_subject = [subjects[name] for name in sorted(subjects)]
        self.size = size
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return numpy_generator(self.seed, "epoch order", epoch).permutation(len(self.by_subject))

    def __call__(self, sample: int, attempt: int = 0) -> Crop:
        """The crop of sample number `sample`; a later attempt is another place in the same scan."""
        epoch, position = divmod(sample, len(self.by_subject))
        scans = self.by_subject[int(self._order(epoch)[position])]
        rng = numpy_generator(self.seed, "crop", sample)
        scan = scans[self._choice(scans, rng)]
        if attempt:
            rng = numpy_generator(self.seed, "crop again", sample, attempt)
        return Crop(scan, _random_start(scan.shape, self.size, rng))

    def _choice(self, scans: Sequence[StoredScan | Stack], rng: np.random.Generator) -> int:
        """One of a subject's scans, by the weights of their contrasts."""
        if not self.weights:
            return int(rng.integers(len(scans)))
        weights = np.array([self.weights.get(scan.contrast, 1.0) for scan in scans])
        return int(rng.choice(len(scans), p=weights / weights.sum()))

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
    """A map from sample numbers to crops read from a store, for a `DataLoader` with any number of workers.

    Args:
        store: where the volumes lie.
        sampler: which crop a sample is.
        margin: voxels read beyond each side of a crop, for whoever turns it afterwards.
        min_foreground: least share of a crop that is no background. A crop with less is drawn again elsewhere in its
            scan, up to `ATTEMPTS` times, and the fullest is taken.
    """

    def __init__(
        self,
        store: Store,
        sampler: CropSampler,
        *,
        margin: Shape3 = (0, 0, 0),
        min_foreground: float = 0.0,
    ) -> None:
        self.store = store
        self.sampler = sampler
        self.margin = margin
        self.min_foreground = min_foreground

    def __getitem__(self, sample: int) -> tuple[np.ndarray, int, str]:
        """The crop (C, D, H, W) in float16, its sample number and its scan's name."""
        place = self._place(sample)
        x, y, z = (first - beyond for first, beyond in zip(place.start, self.margin, strict=True))
        d, h, w = (side + 2 * beyond for side, beyond in zip(self.sampler.size, self.margin, strict=True))
        return read_crop(self.store, place.scan, (x, y, z), (d, h, w)), sample, place.scan.scan_id

    def _place(self, sample: int) -> Crop:
        """The first place with enough foreground, or the fullest; the only one where there is no other."""
        place = self.sampler(sample)
        if not self.min_foreground or all(
            side <= edge for side, edge in zip(place.scan.shape, self.sampler.size, strict=True)
        ):
            return place
        fullest, most = place, -1.0
        for attempt in range(ATTEMPTS):
            place = self.sampler(sample, attempt)
            share = _foreground(read_crop(self.store, place.scan, place.start, self.sampler.size), place.scan)
            if share >= self.min_foreground:
                return place
            if share > most:
                fullest, most = place, share
        return fullest


def _foreground(crop: np.ndarray, scan: StoredScan | Stack) -> float:
    """The share of a crop (C, D, H, W) that is no background in some channel; unknown voxels do not count."""
    sparse = crop[:, ::2, ::2, ::2].astype(np.float32)
    there = [
        is_foreground(own, background) for own, background in zip(sparse, backgrounds(scan), strict=True)
    ]
    return float(np.any(there, axis=0).mean())


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
