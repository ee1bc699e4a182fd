"""Fine-tuning from a readout: the looks at validation subjects on the way, and the best of them kept.

Epoch 0 is the readout. A network that never gets better on subjects it does not learn from stays what it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdae.devices import uses_bf16
from mdae.errors import TrainingError
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.loss import dice_and_cross_entropy
from mdae.evaluation.segment.network import SegmentationNetwork
from mdae.evaluation.segment.patches import Example, PatchSampler
from mdae.evaluation.segment.windows import look_at
from mdae.training.optimiser import learning_rate

CLIP = 1.0  # of the gradient's norm


@dataclass(frozen=True)
class Look:
    """How well the network did at a step.

    Attributes:
        step: after how many.
        dice: of each validation volume, of each label; NaN where it has none.
        loss: since the last look.
    """

    step: int
    dice: tuple[tuple[float, ...], ...]
    loss: float

    @property
    def mean(self) -> float:
        """Over the volumes that have any label, of the mean over their labels; NaN if none has."""
        known = [[value for value in own if not math.isnan(value)] for own in self.dice]
        means = [float(np.mean(own)) for own in known if own]
        return float(np.mean(means)) if means else math.nan


def finetune(
    network: SegmentationNetwork,
    train: Sequence[Example],
    val: Sequence[Example],
    options: FewLabelOptions,
    *,
    seed: int,
    until: int | None = None,
    on_step: Callable[[int, str], None] | None = None,
) -> list[Look]:
    """Train a network that is a readout so far; it ends as it was at its best look, or at the last step without any.

    Args:
        network: changed in place, on its device.
        train: to learn from.
        val: of other subjects, to choose by; none for no looks.
        options: how.
        seed: of patches and augmentation.
        until: stop at this step of the schedule; its end if None.
        on_step: told of the steps done and a note.

    Returns:
        The looks, that of the readout first; none without val.

    Raises:
        TrainingError: the loss is not finite.
    """
    device = network.bias.device
    sampler = PatchSampler(train, network.maps.patch, options, seed, device)
    groups = network.layerwise(options)
    optimiser = torch.optim.AdamW(groups, lr=0.0)
    looks = [Look(0, tuple(look_at(network, example, options) for example in val), math.nan)] if val else []
    best = copy.deepcopy(network.state_dict()) if val else {}
    last = options.steps if until is None else until
    every, losses = max(1, options.steps // options.looks), []
    for step in range(last):
        losses.append(_step(network, optimiser, sampler(step), _share(step, options)))
        done = step + 1
        if not done % every or done == last:
            loss = _finite(torch.stack(losses), done)
            losses = []
            if val:
                looks.append(Look(done, tuple(look_at(network, example, options) for example in val), loss))
                if looks[-1].mean > max(look.mean for look in looks[:-1]):
                    best = copy.deepcopy(network.state_dict())
            if on_step is not None:
                on_step(
                    done, f"loss {loss:.3f}" + (f" · validation Dice {looks[-1].mean:.3f}" if looks else "")
                )
    if val:
        network.load_state_dict(best)
    return looks


def _share(step: int, options: FewLabelOptions) -> float:
    warmup = round(options.warmup * options.steps)
    return learning_rate(step, peak=1.0, warmup_steps=warmup, total_steps=options.steps)


def _step(
    network: SegmentationNetwork,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    share: float,
) -> Tensor:
    """One optimiser step; the loss, on the device."""
    x, context, target = batch
    for group in optimiser.param_groups:
        group["lr"] = share * group["peak"]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=uses_bf16(x.device)):
        scores = network(x)
    loss = dice_and_cross_entropy(scores.float() + context, target)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def _finite(losses: Tensor, step: int) -> float:
    values = losses.cpu()
    if not bool(torch.isfinite(values).all()):
        raise TrainingError(
            f"the loss is not finite by step {step} of fine-tuning", mend="lower --few.lr and --few.head-lr"
        )
    return float(values.mean())
