"""The options of segmentation from few masks; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mdae.errors import ConfigError
from mdae.options import AugmentOptions


def _strong() -> AugmentOptions:
    """Few masks have to show every pose and size; no flips, for bodies have a left and a right."""
    return AugmentOptions(rotate_deg=15.0, scale=0.2, gain=0.2, shift=0.2, gamma=0.3)


@dataclass(frozen=True, kw_only=True)
class FewLabelOptions:
    """How a segmentation is learned from few masks: a readout of the frozen network, from which it is fine-tuned."""

    context: bool = True
    """Give the readout the place in the scan and the intensities around beside the network's maps."""
    points: int = 2500
    """Voxels of each label and volume that the readout is fitted on."""
    steps: int = 200
    """Steps of fine-tuning; 0 for the readout alone. Inner folds take as many each."""
    batch: int = 4
    """Patches in a step."""
    lr: float = 2e-3
    """Peak learning rate of the last layers of the pre-trained network."""
    head_lr: float = 1e-3
    """Peak learning rate of the head, which is the readout already."""
    layer_decay: float = 0.8
    """Each earlier group of layers learns this much slower than the next: general features first, so least changed."""
    warmup: float = 0.1
    """Share of the steps over which learning rates rise linearly; afterwards they fall by a cosine to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of kernels."""
    foreground: float = 0.7
    """Share of the patches whose middle is a voxel of a label, every label as often as any other."""
    looks: int = 2
    """How often the validation subjects are segmented on the way; the best of these, or the readout, is kept."""
    inner_folds: int = 2
    """Where no validation subjects are given: parts of the subjects that are learned from without, to choose by."""
    overlap: float = 0.25
    """Least share of a window that the next one shares with it, where whole scans are segmented."""
    mirror: bool = False
    """Average the scores of every scan and of its mirror images: eight times the work."""
    augment: AugmentOptions = field(default_factory=_strong)
    """Augmentation of patches, on the device."""

    def __post_init__(self) -> None:
        for name in ("points", "batch", "looks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 1 or more")
        if self.steps < 0 or self.inner_folds < 2:
            raise ConfigError(
                "fewer than 0 steps or 2 inner folds",
                mend="give 0 steps for the readout alone, 2 folds or more",
            )
        for name in ("warmup", "overlap", "foreground"):
            if not 0 <= getattr(self, name) <= 1 or (name == "overlap" and self.overlap > 0.9):
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", mend="give 0 to 1, of overlap 0.9 at most"
                )
        if min(self.lr, self.head_lr) <= 0 or not 0 < self.layer_decay <= 1 or self.weight_decay < 0:
            raise ConfigError("a rate or decay out of its range", mend="give lr > 0 and 0 < layer_decay <= 1")

    def fingerprint(self) -> dict[str, Any]:
        """What a result depends on, JSON-able."""
        return asdict(self)
