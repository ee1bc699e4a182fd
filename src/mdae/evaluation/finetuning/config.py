"""The options of fine-tuning; torch-free, for the command line.

The defaults are for 50 to 500 labelled scans. Learning rate, weight decay, batch, label smoothing and dropout lie in
the ranges of MDAE's public runs (AdamW, 2e-5 to 1e-4, 0.01, 4, 0.2, 0.2 to 0.5); the rest is explained at its field.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from mdae.errors import ConfigError
from mdae.options import AugmentOptions

Fusion = Literal["late", "early"]
SCRATCH = {"lr": 1e-3, "head_lr": 1e-3, "layer_decay": 1.0}  # of random weights


def _mild() -> AugmentOptions:
    """Little of everything, for too much of it hurts classification; no flips, for heads are upright."""
    return AugmentOptions(rotate_deg=10.0, scale=0.1, gain=0.1, shift=0.1)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How an encoder is fine-tuned. It starts from a linear probe of its frozen features, so that nothing is unlearnt
    for a random head's sake."""

    epochs: int = 50
    """Passes over the training part at most; a cosine to 0 needs an end, and few scans are learnt by then."""
    batch: int = 4
    """Subjects per optimiser step."""
    at_once: int = 4
    """Volumes that go through the network together; fewer need less memory and give the same result."""
    lr: float = 5e-5
    """Peak learning rate of the encoder's last group of layers."""
    head_lr: float = 1e-4
    """Peak learning rate of the head, which is a linear probe already and need not run ahead of the encoder."""
    layer_decay: float = 0.75
    """Each earlier group of layers learns this much slower than the next: general features first, so least changed."""
    warmup: float = 0.1
    """Share of the steps over which learning rates rise linearly; afterwards they fall by a cosine to 0."""
    freeze: int = 0
    """Epochs at the beginning in which the head alone learns; as many as there are leave the encoder as it is."""
    weight_decay: float = 0.01
    """Decoupled weight decay; none on normalisations and biases."""
    label_smoothing: float = 0.2
    """Share of a class's label that is spread over all: labels are noisy, and few scans make a network too sure."""
    dropout: float = 0.3
    """Probability that the head does not see a feature."""
    patience: int = 15
    """Epochs without a better validation part after which training ends; the best epoch is what counts."""
    balanced: bool = True
    """Draw all classes equally often; probabilities are set back to the training part's shares."""
    fusion: Fusion = "late"
    """Several contrasts: `late` shows each to the encoder as it was pre-trained and joins the features side by side;
    `early` widens its first convolution to all of them, one pass for the cost of one contrast."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Arithmetic of the encoder: bf16 on CUDA devices that have it, else 32."""
    augment: AugmentOptions = field(default_factory=_mild)
    """Augmentation of training scans, on the device; the same for all contrasts of a subject."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "at_once", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 1 or more")
        for name in ("warmup", "label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 0 or more, and less than 1")
        for name in ("lr", "head_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give more than 0")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}", mend="give more than 0, at most 1")
        if self.freeze < 0 or not 0 <= self.weight_decay < math.inf:
            raise ConfigError("freeze or weight_decay below 0", mend="give 0 or more")

    def from_scratch(self) -> FinetuneOptions:
        """The same with one high learning rate for all layers, unless those were set: there are no weights to keep."""
        defaults = {item.name: item.default for item in fields(self)}
        unset: dict[str, Any] = {
            name: value for name, value in SCRATCH.items() if getattr(self, name) == defaults[name]
        }
        return replace(self, **unset)

    def fingerprint(self) -> dict[str, Any]:
        """What a result depends on, JSON-able: all but how many volumes share the device."""
        values = asdict(self)
        del values["at_once"]
        return values
