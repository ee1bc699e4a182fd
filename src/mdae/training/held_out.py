"""The held-out volumes: how well the objective does on them, and what it makes of the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mdae.data.ahead import ahead
from mdae.data.sampling import CropDataset
from mdae.objectives.base import StepOutput
from mdae.training.launch import World
from mdae.training.run import Run
from mdae.training.step import Learner, MicroBatch

PICTURED = 3  # volumes in a picture of reconstructions
READERS = 2  # threads that read while the device computes


class HeldOut:
    """The validation part of a run, always the same crops with the same draws.

    Args:
        run: whose.
        learner: in training; its averaged weights are looked at.
        micro_batch: volumes at once.
        world: over whose processes the volumes are dealt.
    """

    def __init__(self, run: Run, learner: Learner, micro_batch: int, world: World) -> None:
        self.learner, self.world = learner, world
        self.groups = _groups(
            run.num_validation, micro_batch, learner.raw.min_batch, mixed=learner.raw.mixes_samples
        )
        self.dataset = CropDataset(run.store, run.validation) if run.validation is not None else None

    def means(self) -> dict[str, float]:
        """The loss and terms over all held-out volumes; nothing if there are none."""
        if self.dataset is None or not self.groups:
            return {}
        names: list[str] = []
        rows: list[Tensor] = []
        sizes: list[int] = []
        for batch, output in self.outputs(self.groups[self.world.place.rank :: self.world.size]):
            names = ["loss", *output.logs]
            rows.append(torch.stack([output.loss, *output.logs.values()]).double())
            sizes.append(len(batch.samples))
        names = max(self.world.everywhere(names), key=len)  # a process may have had no volume
        device = self.learner.device
        table = torch.stack(rows) if rows else torch.zeros(0, len(names), device=device)
        return dict(zip(names, self._weighted(table, torch.tensor(sizes, device=device)), strict=True))

    def _weighted(self, table: Tensor, sizes: Tensor) -> list[float]:
        """Means over the volumes of all processes; a term may be undefined (NaN) on some, the loss on none."""
        table, sizes = table.double(), sizes.double()[:, None].expand_as(table)
        defined = ~table.isnan()
        defined[:, 0] = True
        totals = torch.where(defined, table * sizes, 0.0).sum(0)
        sums = self.world.sum(torch.stack([totals, (defined * sizes).sum(0)]))
        return [float(value) for value in (sums[0] / sums[1]).tolist()]

    def pictures(self) -> list[dict[str, np.ndarray]]:
        """What the objective shows of the first volumes: (D, H, W) by name, a row for each contrast."""
        found: list[list[dict[str, np.ndarray]]] = []
        for _, output in self.outputs(self.groups):
            if not output.pictures or len(found) >= PICTURED:
                break
            shown = {name: volumes.float().cpu().numpy() for name, volumes in output.pictures.items()}
            number, channels = len(next(iter(shown.values()))), max(v.shape[1] for v in shown.values())
            found += [
                [{name: v[i, min(c, v.shape[1] - 1)] for name, v in shown.items()} for c in range(channels)]
                for i in range(number)
            ]
        return [row for rows in found[:PICTURED] for row in rows]

    def outputs(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[MicroBatch, StepOutput]]:
        """The objective on groups of samples; the next are read while one is computed."""
        for samples, crops in ahead(groups, self._read, READERS):
            batch = MicroBatch(crops.result(), samples)
            yield batch, self.learner.look(batch)

    def _read(self, samples: Sequence[int]) -> Tensor:
        assert self.dataset is not None
        return torch.from_numpy(np.stack([self.dataset[sample][0] for sample in samples]))


def _groups(number: int, size: int, least: int, *, mixed: bool) -> list[list[int]]:
    """The held-out samples as they are given to the objective, as many at once as in training.

    Where it compares them, or all where these are fewer, and what is left over not at all: a loss over more negatives
    is another loss.
    """
    size = min(size, number)
    if size < least or not size:
        return []
    last = number - size + 1 if mixed else number
    return [list(range(start, min(start + size, number))) for start in range(0, last, size)]
