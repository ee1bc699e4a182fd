"""What a run's options are once what was left out is filled in: the same for whoever asks, a run or a sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mdae.networks import preset
from mdae.objectives import objective_config
from mdae.objectives.settings import as_text, flatten
from mdae.options import read_changes
from mdae.training.config import PretrainConfig
from mdae.types import Shape3


@dataclass(frozen=True)
class LargeBlocks:
    """Mask blocks that are half of a crop or more.

    Attributes:
        name: of the setting.
        block: its value, in voxels.
        patch: the crop.
        finer: an eighth of the crop's sides.
        asked: whether somebody asked for them.
    """

    name: str
    block: Shape3
    patch: Shape3
    finer: Shape3
    asked: bool


def settled(config: PretrainConfig) -> PretrainConfig:
    """Options with the network's own learning rate, and with blocks that suit small crops, where none are given.

    Raises:
        ConfigError: no such network, objective or setting, or a crop that the network does not take.
    """
    large, settings = large_blocks(config), config.settings
    if large is not None and not large.asked:
        settings = (*settings, f"{large.name}={as_text(large.finer)}")
    return replace(config, lr=config.lr or preset(config.network).lr, settings=settings)


def large_blocks(config: PretrainConfig) -> LargeBlocks | None:
    """The mask blocks of an objective, if they are half of a crop or more; errors as `settled`.

    What such blocks leave visible says little of what they hide: of six objectives that were tried on small crops all
    but one learned less by them (docs/does-it-help.md). Who asks for a size gets it.
    """
    patch, changes = preset(config.network).crop(config.patch), read_changes(config.settings)
    values = flatten(objective_config(config.objective, config.options, changes))
    name = next((name for name in values if name.rpartition(".")[2] == "block"), "")
    block, masks = values.get(name), values.get("corruption.p_max", 1.0) > 0
    if block is None or not masks or all(2 * edge < side for edge, side in zip(block, patch, strict=True)):
        return None
    asked = config.options.block is not None or any(f".{name}".endswith(f".{own}") for own in changes)
    finer = (max(1, patch[0] // 8), max(1, patch[1] // 8), max(1, patch[2] // 8))
    return LargeBlocks(name, block, patch, finer, asked or bool(values.get("corruption.edges")))
