"""AdamW, its learning rate as a pure function of the step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def build_optimiser(module: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on convolutions and matrices alone, fused into one kernel."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to `peak`, then a cosine to 0 at `total_steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


class MovingAverage:
    """An exponential moving average of a module's parameters; with decay 0 it is the parameters themselves."""

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.live = list(parameters)
        self.average = [p.detach().clone() for p in self.live] if decay else []

    @torch.no_grad()
    def update(self, step: int, skip: Tensor) -> None:
        """Take in the weights after step number `step`; the first steps weigh more (decay (1+s)/(10+s)).

        Args:
            step: from 1.
            skip: scalar on the device, 1 if the step moved no weight, which then does not count; else 0.
        """
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            change = torch._foreach_sub(self.live, self.average)
            torch._foreach_mul_(change, (1 - decay) * (1 - skip))
            torch._foreach_add_(self.average, change)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and live weights; call it twice to undo."""
        for average, live in zip(self.average, self.live, strict=False):  # no averages when off
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)
