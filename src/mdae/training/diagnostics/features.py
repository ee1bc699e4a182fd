"""What the encoder makes of some crops, at time 0, once for all diagnostics that look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdae.data.ahead import ahead
from mdae.data.sampling import CropDataset
from mdae.training.diagnostics import Moment
from mdae.training.run import LOOKED_AT
from mdae.training.step import on_device

AT_ONCE = 8
PLACES = 16  # voxels of the deepest map of each crop
READERS = 2  # threads that read while the device computes


@dataclass(frozen=True)
class CropFeatures:
    """Features of crops.

    Attributes:
        means: of each stage, finest first, over the voxels of a crop, (N, C) each.
        places: of single voxels of the deepest stage, (N * P, C).
    """

    means: list[np.ndarray]
    places: np.ndarray


class Looker:
    """Features of the held-out crops, kept for the step that they are of."""

    def __init__(self) -> None:
        self._step, self._found = -1, CropFeatures([], np.zeros((0, 0)))

    def look(self, moment: Moment) -> CropFeatures:
        """The same on every process; each computes its share."""
        if moment.step != self._step:
            self._step, self._found = moment.step, _crop_features(moment)
        return self._found


@torch.no_grad()
def _crop_features(moment: Moment) -> CropFeatures:
    run, world = moment.run, moment.world
    crops = CropDataset(
        run.store, run.validation or run.train
    )  # of few subjects several each, always the same
    encoder = moment.learner.raw.network.at(0.0).encoder
    mine: list[tuple[int, list[np.ndarray], np.ndarray]] = []
    samples = range(world.place.rank, LOOKED_AT, world.size)
    size = min(AT_ONCE, max(map(len, moment.held_out.groups), default=1))
    groups = [samples[first : first + size] for first in range(0, len(samples), size)]
    for group, read in ahead(groups, lambda own: np.stack([crops[s][0] for s in own]), READERS):
        clean, _ = on_device(torch.from_numpy(read.result()), moment.learner.device, run.partly_unknown)
        with moment.learner.autocast():
            stages = encoder(clean)
        mine += [(s, *_numbers([stage[row] for stage in stages])) for row, s in enumerate(group)]
    each = sorted(((s, m, p) for part in world.everywhere(mine) for s, m, p in part), key=lambda row: row[0])
    means = [np.stack([row[1][stage] for row in each]) for stage in range(len(each[0][1]))]
    return CropFeatures(means, np.concatenate([row[2] for row in each]))


def _numbers(stages: Sequence[Tensor]) -> tuple[list[np.ndarray], np.ndarray]:
    """Of one crop's maps (C, D, H, W): each stage's means (C,), and some voxels of the deepest one, (P, C)."""
    means = [stage.float().mean(dim=(1, 2, 3)).cpu().numpy() for stage in stages]
    deepest = stages[-1].float().flatten(1).T  # (voxels, C)
    chosen = np.unique(np.linspace(0, len(deepest) - 1, PLACES).round().astype(int))
    return means, deepest[torch.from_numpy(chosen).to(deepest.device)].cpu().numpy()
