"""nnU-Net's own trainer from our weights: its losses, augmentation, sampling, optimiser and checkpoints.

Ours are the weights that it starts from, the learning rate of each epoch and whether the encoder moves, the split, the
seeds, and that checkpoints are written whole. It needs nnU-Net: import it where that is known to be installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.optim import Optimizer

from mdae.errors import ModelError
from mdae.evaluation.nnunet.schedule import EpochScheduler, LearningRate
from mdae.files import atomic_write
from mdae.interop.nnunet import DECODER, ENCODER, HEADS
from mdae.seeding import key

VALIDATION_SHARE = 5  # training steps for each step of validation, as nnU-Net's 250 and 50
SAVES = 20  # checkpoints to resume from, over a training
NEVER = 10**9


@dataclass(frozen=True)
class FoldRun:
    """What one training is given besides plans and data.

    Attributes:
        train, val: nnU-Net's identifiers.
        weights: to start from, `nnunet_weights`; None for nnU-Net's own.
        decoder: whether the weights of the decoder are taken too.
        rate: the learning rate.
        iterations: steps in an epoch.
        seed: of weights that are drawn and of every epoch's batches.
    """

    train: list[str]
    val: list[str]
    weights: Mapping[str, Tensor] | None = field(repr=False)  # nnU-Net prints all that a trainer has
    decoder: bool
    rate: LearningRate
    iterations: int
    seed: int


class SegmentationTrainer(nnUNetTrainer):  # type: ignore[misc]  # of a package without types
    """nnU-Net's trainer for one fold; `start` is called before anything else.

    Attributes:
        run: the settings of the fold.
        progress: is told the epochs done and a note.
    """

    run: FoldRun
    progress: Callable[[int, str], None]

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.save_every = NEVER  # `on_epoch_end` does it
        self.logger.plot_progress_png = lambda folder: None  # seconds an epoch; the log has the figures

    def start(self, run: FoldRun) -> None:
        """Take the settings of a fold."""
        self.run, self.progress = run, lambda done, note: None
        self.num_epochs, self.initial_lr = run.rate.epochs, run.rate.peak
        self.num_iterations_per_epoch = run.iterations
        self.num_val_iterations_per_epoch = max(1, run.iterations // VALIDATION_SHARE)

    def initialize(self) -> None:
        self._seed("weights")
        super().initialize()
        if self.run.weights is not None:
            load_start(self.plain_network(), self.run.weights, decoder=self.run.decoder)

    def plain_network(self) -> nn.Module:
        """The network itself, where torch.compile has wrapped it."""
        network: Any = self.network
        return getattr(network, "_orig_mod", network)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> tuple[Optimizer, EpochScheduler]:
        optimizer, _ = super().configure_optimizers()
        return optimizer, EpochScheduler(optimizer, self.run.rate)

    def do_split(self) -> tuple[list[str], list[str]]:
        return list(self.run.train), list(self.run.val)

    def on_train_epoch_start(self) -> None:
        self._seed("epoch", self.current_epoch)  # so that a resumed training goes on as it would have
        self.plain_network().encoder.requires_grad_(self.run.rate.encoder_trains(self.current_epoch))
        super().on_train_epoch_start()

    def on_epoch_end(self) -> None:
        """The best checkpoint comes first, so that the latest knows of it."""
        super().on_epoch_end()
        done = self.current_epoch
        self.progress(done, f"pseudo Dice {self.logger.get_value('ema_fg_dice', step=-1):.3f}")
        if done % max(1, self.num_epochs // SAVES) == 0 and done < self.num_epochs:
            self.current_epoch -= 1  # what is saved counts from the epoch that has ended
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
            self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        with atomic_write(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def plot_network_architecture(self) -> None:
        """Nothing: it needs a package that is no longer kept."""

    def print_to_log_file(
        self, *words: Any, also_print_to_console: bool = True, add_timestamp: bool = True
    ) -> None:
        super().print_to_log_file(*words, also_print_to_console=False, add_timestamp=add_timestamp)

    def _seed(self, purpose: str, *counters: int) -> None:
        """Seed the global generators that nnU-Net draws from, where it augments in this process."""
        number = key(self.run.seed, f"nnunet {purpose}", *counters)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        torch.manual_seed(number)


# Checkpoints carry their trainer's name. The network is nnU-Net's own, so by this name its own tools can use them,
# `nnUNetv2_predict_from_modelfolder` say, without knowing of us.
SegmentationTrainer.__name__ = nnUNetTrainer.__name__


def load_start(network: nn.Module, weights: Mapping[str, Tensor], *, decoder: bool) -> None:
    """Load an export into nnU-Net's network: all of it or none.

    Args:
        network: changed in place.
        weights: by nnU-Net's names.
        decoder: load the decoder's too; the heads stay as they are in any case.

    Raises:
        ModelError: weights that are missing, left over or of another shape.
    """
    own = network.state_dict()
    wanted = {name for name in own if not name.startswith(HEADS) and (decoder or _is_encoders(name))}
    given = {name: value for name, value in weights.items() if decoder or _is_encoders(name)}
    unfit = sorted(wanted ^ given.keys()) or sorted(
        name for name in wanted if own[name].shape != given[name].shape
    )
    if unfit:
        raise ModelError(
            f"{len(unfit)} weights do not fit the plan's network, e.g. {unfit[0]}",
            mend="use the model that the plan was made for",
        )
    network.load_state_dict(given, strict=False)


def _is_encoders(name: str) -> bool:
    """Whether a weight is the encoder's, by either of its names."""
    return name.removeprefix(DECODER).startswith(ENCODER)
