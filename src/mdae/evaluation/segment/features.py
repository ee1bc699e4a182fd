"""What is known of a voxel, side by side: an encoder's maps, the intensities around it, and where it is.

Numbers are ordered so: for each contrast the encoder's features and the intensities, then the place, once. An encoder
that sees several contrasts at once has features of them together, after which the intensities of each follow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mdae.evaluation.segment.volumes import Volume
from mdae.evaluation.voxel_probe.context import (
    NUM_ALONE,
    NUM_POSITION,
    NUM_SCALES,
    position_at,
    position_maps,
    scale_maps,
)
from mdae.evaluation.voxel_probe.features import MapSource, features_at, read_out

AT_ONCE = 8  # maps of context in one product


@dataclass(frozen=True)
class VoxelFeatures:
    """Where the features of single voxels come from.

    Attributes:
        encoder: the frozen network that is read; None for none.
        place, intensities: whether these stand beside it.
    """

    encoder: MapSource | None
    place: bool
    intensities: bool

    @property
    def num_encoder(self) -> int:
        """Features of the encoder for each contrast."""
        return 0 if self.encoder is None else sum(self.encoder.widths)

    def number(self, num_contrasts: int) -> int:
        """F, of volumes of so many contrasts."""
        return len(self._starts(num_contrasts)) * self._width + (NUM_POSITION if self.place else 0)

    @property
    def _at_once(self) -> int:
        """Contrasts that the encoder sees together."""
        return 1 if self.encoder is None else self.encoder.in_channels

    @property
    def _width(self) -> int:
        """Features of what is seen together."""
        return self.num_encoder + self._at_once * self._num_scales

    def _passes(self, volume: Volume) -> Iterator[Volume]:
        """The contrasts of a volume that are seen together."""
        for first in range(0, len(volume.data), self._at_once):
            some = slice(first, first + self._at_once)
            yield Volume(volume.data[some], volume.background[some], volume.spacing_mm)

    @property
    def _num_scales(self) -> int:
        return (NUM_SCALES if self.place else NUM_ALONE) if self.intensities else 0

    def at(self, volume: Volume, points: np.ndarray) -> np.ndarray:
        """The features (P, F), float32, at voxels (P, 3) of a volume."""
        where = tuple(points.T)
        parts = []
        for own in self._passes(volume):
            if self.encoder is not None:
                parts.append(features_at(self.encoder, own.data, own.background, points))
            for data in own.data if self.intensities else ():
                scales = scale_maps(data, volume.spacing_mm, by_place=self.place)
                parts += [one[where][:, None] for one in scales]
        if self.place:
            parts.append(position_at(volume.shape, points))
        return np.concatenate(parts, axis=1)

    def linear(self, volume: Volume, weights: np.ndarray) -> np.ndarray:
        """Linear functions (K, D, H, W), float32, of the features at every voxel, by weights (K, F)."""
        total = self.linear_of_context(volume, weights)
        if self.encoder is not None:
            parts = self.of_encoder(weights, len(volume.data))
            for kernel, own in zip(parts, self._passes(volume), strict=True):
                total += read_out(self.encoder, own.data, own.background, kernel)
        return total

    def linear_of_context(self, volume: Volume, weights: np.ndarray) -> np.ndarray:
        """The part of `linear` that intensities and place contribute."""
        total = np.zeros((len(weights), math.prod(volume.shape)), dtype=np.float32)
        maps = zip(self._context_columns(len(volume.data)), self._context_maps(volume), strict=True)
        while some := list(itertools.islice(maps, AT_ONCE)):
            side_by_side = np.stack([np.broadcast_to(one, volume.shape).ravel() for _, one in some])
            total += weights[:, [column for column, _ in some]].astype(np.float32) @ side_by_side
        return total.reshape(len(weights), *volume.shape)

    def of_encoder(self, weights: np.ndarray, num_contrasts: int) -> list[np.ndarray]:
        """The columns of weights (K, F) that are the encoder's, (K, features) for each of its passes."""
        return [weights[:, first : first + self.num_encoder] for first in self._starts(num_contrasts)]

    def _starts(self, num_contrasts: int) -> list[int]:
        """The first column of each pass."""
        return [number * self._width for number in range(num_contrasts // self._at_once)]

    def _context_columns(self, num_contrasts: int) -> list[int]:
        starts, beside = self._starts(num_contrasts), range(self.num_encoder, self._width)
        own = [first + place for first in starts for place in beside]
        return [*own, *range(len(starts) * self._width, self.number(num_contrasts))]

    def _context_maps(self, volume: Volume) -> Iterator[np.ndarray]:
        for data in volume.data if self.intensities else ():
            yield from scale_maps(data, volume.spacing_mm, by_place=self.place)
        if self.place:
            yield from position_maps(volume.shape)
