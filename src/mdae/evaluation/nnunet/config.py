"""The options of segmentation by nnU-Net; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mdae.errors import ConfigError
from mdae.types import Shape3

Schedule = Literal["full", "warmup", "frozen"]


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """How nnU-Net trains from an encoder, for segmentation tasks; what is not here is nnU-Net's own."""

    schedule: Schedule = "full"
    """Train everything from the start (full); the decoder first and the encoder after a share of the epochs (warmup);
    or the decoder alone (frozen)."""
    epochs: int = 1000
    """Epochs of each fold."""
    iterations: int = 250
    """Optimiser steps in an epoch."""
    lr: float | None = None
    """Peak learning rate; 0.001 from pre-trained weights, as nnssl fine-tunes, and nnU-Net's 0.01 from untrained ones
    if left out."""
    warmup: float = 0.1
    """Share of the epochs that the decoder is trained alone, and after it again as long until the whole network is at
    the peak learning rate; of the schedule warmup."""
    decoder: Literal["pretrained", "random"] = "pretrained"
    """Start from the pre-trained decoder too, or from a random one. The heads are always random."""
    patch: Shape3 | None = None
    """Patch in voxels; that of pre-training if left out."""
    batch: int = 2
    """Patches in a batch."""
    only_folds: tuple[int, ...] = ()
    """Of the cross-validation, to train some here and, once these have begun, others elsewhere in the same --out; all
    if left out."""
    tolerance_mm: float = 1.0
    """Distance within which surfaces agree, of the normalised surface distance."""

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 1 or more")
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(f"lr is {self.lr}", mend="give more than 0")
        if not 0 < self.warmup < 0.5:
            raise ConfigError(f"warmup is {self.warmup}", mend="give more than 0 and less than 0.5")
        if self.schedule == "warmup" and self.epochs < 3:
            raise ConfigError("a warm-up of fewer than 3 epochs", mend="give --segment.epochs 3 or more")
        if min(self.only_folds, default=0) < 0 or self.tolerance_mm < 0:
            raise ConfigError("a negative fold or tolerance", mend="give 0 or more")
