"""The options of segmentation from few masks; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FewLabelOptions:
    """How a segmentation is learned from few masks: a readout of the frozen encoder, from which the network is
    fine-tuned."""

    context: bool = True
    """Give the readout the place in the scan and the intensities around beside the encoder's features."""
    points: int = 700
    """Voxels of each label and volume that the readout is fitted on."""
    steps: int = 0
    """Steps of fine-tuning; 0 for the readout alone."""

    def __post_init__(self) -> None:
        if self.points < 1 or self.steps < 0:
            raise ConfigError("no points, or fewer than 0 steps", mend="give --points 700 --steps 600, say")
