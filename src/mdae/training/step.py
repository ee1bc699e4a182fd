"""One optimiser step: augment, draw, loss, gradient, clipping, AdamW. What `benchmarks.step` times is this very code.

Nothing in it waits for the device: what a step comes to stays there as tensors, and a step that is not finite is
skipped there, by the optimiser itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdae.data import augment
from mdae.data.preprocess import UNKNOWN
from mdae.networks.norm import lay_channels_last
from mdae.objectives import Objective
from mdae.objectives.base import StepOutput
from mdae.options import AugmentOptions
from mdae.seeding import torch_generator
from mdae.training.optimiser import MovingAverage, build_optimiser
from mdae.types import Shape3, Spacing


class MicroBatch(NamedTuple):
    """Volumes that a device takes at once.

    Attributes:
        crops: (B, C, D, H, W) of any floating type, on any device, with the augmentation's margin; NaN where unknown.
        samples: their numbers in the run, which all that is drawn for them follows from.
    """

    crops: Tensor
    samples: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a step does around the objective.

    Args:
        seed: of all draws.
        clip: the largest norm of the gradient.
        bf16: whether the objective runs in autocast bfloat16.
        augment: what is done to crops before, on the device.
        patch, spacing_mm: the crop's sides in voxels, and theirs; augmentation alone needs them.
        partly_unknown: whether crops may hold NaN for voxels that nobody knows.
    """

    seed: int = 0
    clip: float = 12.0
    bf16: bool = False
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    patch: Shape3 = (0, 0, 0)
    spacing_mm: Spacing = (1.0, 1.0, 1.0)
    partly_unknown: bool = False


class Learner:
    """An objective in training, with its optimiser and the average of its weights.

    Args:
        objective: on its device.
        settings: of its steps.
        lr, weight_decay, ema: as in `PretrainConfig`.
        distributed: what synchronises gradients over processes, given the objective; none for one process.

    Attributes:
        raw: the objective without that.
        num_params: trainable numbers.
    """

    def __init__(
        self,
        objective: Objective,
        settings: StepSettings,
        *,
        lr: float,
        weight_decay: float = 0.01,
        ema: float = 0.0,
        distributed: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.raw, self.settings = objective, settings
        self.device = next(objective.parameters()).device
        if self.device.type == "cuda":
            lay_channels_last(objective)
        self.module = objective if distributed is None else distributed(objective)
        self.trainable = [p for p in objective.parameters() if p.requires_grad]
        self.optimiser = build_optimiser(objective, lr=lr, weight_decay=weight_decay)
        self.average = MovingAverage(self.trainable, ema)

    def step(self, batches: Sequence[MicroBatch], rate: float, number: int) -> dict[str, Tensor]:
        """One optimiser step over micro-batches.

        Args:
            batches: this process's share; all of one size, so that the mean over them is the batch's.
            rate: the learning rate.
            number: of this step, from 1.

        Returns:
            Scalars on the device: `loss`, the objective's terms, `grad_norm` before clipping, and `lr`. A loss or norm
            that is not finite, on any process, means that no weight was moved.
        """
        parts: list[dict[str, Tensor]] = []
        for index, batch in enumerate(batches):
            with self._synchronised(last=index + 1 == len(batches)):
                output = self._forward(batch)
                (output.loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            parts.append({"loss": output.loss.detach(), **output.logs})
        means = {name: _mean(name, [part[name] for part in parts]) for name in parts[0]}
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.clip)
        self._update(rate, number, means["loss"].isfinite() & norm.isfinite())
        return {**means, "grad_norm": norm, "lr": torch.full_like(norm, rate)}

    def _update(self, rate: float, number: int, finite: Tensor) -> None:
        """AdamW, unless the step is not finite on some process."""
        skip = (~finite).float()
        if self._spread:
            torch.distributed.all_reduce(skip, op=torch.distributed.ReduceOp.MAX)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.found_inf = skip  # type: ignore[attr-defined]  # the fused kernel's own way to skip, as for fp16
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update(number, skip)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the weights are their moving average, which is what is looked at and saved."""
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def finite(self) -> bool:
        """Whether all weights, and their average, are finite; waits for the device."""
        found = [weight.detach().isfinite().all() for weight in (*self.trainable, *self.average.average)]
        return bool(torch.stack(found).all())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "objective": self.raw.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.average,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.raw.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.average = state["average"]

    @property
    def _spread(self) -> bool:
        return isinstance(self.module, DistributedDataParallel)

    def _synchronised(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged between processes after the last micro-batch only."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        held: AbstractContextManager[None] = self.module.no_sync()
        return held

    def _forward(self, batch: MicroBatch) -> StepOutput:
        clean, known = on_device(batch.crops, self.device, self.settings.partly_unknown)
        clean, known = self._augmented(clean, known, batch.samples)
        with self.autocast():
            output: StepOutput = self.module(clean, self._generators("corruption", batch.samples), known)
        return output

    def autocast(self) -> torch.autocast:
        """The arithmetic of the objective."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16)

    def _augmented(
        self, clean: Tensor, known: Tensor | None, samples: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Training crops, augmented if that is wanted."""
        settings = self.settings
        if not settings.augment.any:
            return clean, known
        return augment.apply(
            augment.draw(settings.augment, self._generators("augmentation", samples)),
            clean,
            known,
            options=settings.augment,
            patch=settings.patch,
            spacing_mm=settings.spacing_mm,
        )

    def _generators(self, purpose: str, samples: Sequence[int]) -> list[torch.Generator]:
        return [torch_generator(self.settings.seed, purpose, s, device=self.device) for s in samples]

    @torch.no_grad()
    def look(self, batch: MicroBatch) -> StepOutput:
        """The objective on held-out volumes, not augmented, always with the same draws."""
        clean, known = on_device(batch.crops, self.device, self.settings.partly_unknown)
        generators = self._generators("validation corruption", batch.samples)
        self.raw.eval()
        with self.autocast():
            output: StepOutput = self.raw(clean, generators, known)
        self.raw.train()
        return output


def on_device(crops: Tensor, device: torch.device, partly_unknown: bool) -> tuple[Tensor, Tensor | None]:
    """Crops in float32 and which of their voxels are known; NaN means unknown in the store.

    They travel as they are stored and are widened there: half the way, and a copy that nobody waits for.
    """
    clean = crops.to(device, non_blocking=True).float()
    if not partly_unknown:
        return clean, None
    known = ~clean.isnan()
    return clean.masked_fill(~known, UNKNOWN), known


def _mean(name: str, values: list[Tensor]) -> Tensor:
    """Over micro-batches; a term may be undefined (NaN) on some, the loss on none."""
    stacked = torch.stack(values)
    return stacked.mean() if name == "loss" else stacked.nanmean()
