"""The options of `mdae pretrain`; torch-free, for the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from mdae.devices import Precision
from mdae.errors import ConfigError
from mdae.options import AugmentOptions, ObjectiveOptions, read_changes, require_words
from mdae.training.cadence import Cadence, read_cadence
from mdae.types import Shape3

# Options that count only where they are used: what older versions did without them stays what it was.
LATER: dict[str, Any] = {
    "schedule": "cosine",
    "decay": 0.2,
    "extend": (),
    "extend_lr": (),
    "init": "",
    "init_decoder": True,
    "channels": (),
    "lacking": "hide",
}

LARGEST = 3.4e38  # that float32 holds


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train an encoder on a prepared store. The same command again resumes an interrupted run."""

    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """The store that `mdae prepare` wrote."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder of the run: logs, pictures, checkpoints, and the model in `model/`."""
    objective: str = "mdae"
    """What to learn from: mdae, mae, simclr and others; `mdae objectives` lists them."""
    plugin: Path | None = None
    """Python file of your own with further objectives or networks. It is run, so take nobody else's unread."""
    network: str = "tiny"
    """What to train: tiny, small, base or resenc-l, or one of --plugin."""
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 4
    """Volumes per optimiser step, over all devices and accumulated micro-batches together."""
    accumulate: int = 0
    """Micro-batches per optimiser step on each device; more of them need less memory. 0 for as few as fit in it."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them: half the memory, half as long again."""
    patch: Shape3 | None = None
    """Crop in voxels; the preset's own if left out."""
    contrasts: tuple[str, ...] = ()
    """Only scans of these contrasts (as the store names them); all if left out."""
    channels: tuple[str, ...] = ()
    """Contrasts of a session as the channels of one volume, in this order: T1w T2w FLAIR, say. They have to lie on one
    grid, as `mdae prepare --together` brings them to."""
    lacking: Literal["hide", "leave_out"] = "hide"
    """Sessions that lack one of the channels: it is hidden and nothing is learned of it, or they are left out."""
    contrast_weights: dict[str, float] = field(default_factory=dict)
    """How often a contrast is chosen among a subject's scans, T1w 1 FLAIR 3 say; 1 for those not named, 0 for never."""
    min_foreground: float = 0.0
    """Least share of a crop that is no background; emptier crops are drawn again elsewhere in the scan."""
    lr: float = 0.0
    """Peak learning rate of AdamW; 0 for the network's own: 0.002 of tiny and small, 0.001 of others."""
    weight_decay: float = 0.01
    """Decoupled weight decay; none on normalisations and biases."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises linearly."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rate after the warm-up: falls by a cosine to 0, or (wsd) is held and falls at the end."""
    decay: float = 0.2
    """Share of the steps over which wsd falls linearly to 0."""
    extend: tuple[int, ...] = ()
    """Go on longer than --steps by so many; what was given before, and more behind it, to go on once again."""
    extend_lr: tuple[float, ...] = ()
    """Peak learning rate of each extension, 0 for --lr's; all at that if left out."""
    init: str = ""
    """Begin with weights: a model folder, a checkpoint of nnssl or nnU-Net, or OWNER/REPO on the Hugging Face Hub."""
    init_decoder: bool = True
    """Take the decoder too where --init has one that fits."""
    clip: float = 12.0
    """Largest norm of the gradient; larger ones are scaled down to it."""
    max_skipped: int = 10
    """Batches in a row whose loss or gradient is not finite, each skipped and noted, after which the run stops; half
    of a short run's steps do as well."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is saved; 0 for none."""
    precision: Precision = "auto"
    """Arithmetic of the network: bf16 where the device has it, else 32."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device."""
    devices: int = 0
    """Number of devices; 0 for all there are (1 on a CPU)."""
    workers: int = -1
    """Loader processes per device; -1 for a guess: none on a CPU, else up to 8."""
    val_fraction: float = 0.1
    """Share of subjects held out for validation."""
    split: str = ""
    """Train and validate on the subjects of this split of the store, which `mdae split` wrote, instead."""
    val_every: int | str = "auto"
    """Steps, or minutes as in 5min, between validations, 0 for none; by default they cost a twentieth of the run."""
    checkpoint_every: int | str = "10min"
    """Steps or minutes between checkpoints, which are written beside training; the last two are kept."""
    picture_every: int | str = "30min"
    """Steps or minutes between pictures of reconstructions; 0 for none."""
    log_every: int | str = 10
    """Steps or minutes between rows of the log (each a mean over its steps) and between looks for a diverging loss."""
    export_every: int | str = 0
    """Steps or minutes between exports of the model as it stands; 0 for at the end, and when the run is stopped."""
    export_now: bool = False
    """Only write the model of the last checkpoint."""
    dry_run: bool = False
    """Only measure a few steps, and say what the run will take: hours, memory, energy. Nothing is written."""
    probe: Path | None = None
    """Table with --label by subject, participants.tsv say: at each validation it is told from frozen features."""
    label: str = ""
    """Its column of classes or numbers."""
    site: str = ""
    """Its column of scanners or sites, to see how well these are told; one named site or scanner if left out."""
    masks: Path | None = None
    """Folder of segmentations named as the store's scans: at each validation they are told voxel by voxel."""
    wandb: str = ""
    """Show the log in this project of Weights & Biases too; it has to be installed."""
    whole_files: bool = False
    """Read whole volumes instead of the blocks of a crop: network file systems like one large read better."""
    seed: int = 0
    """Everything random follows from it."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """Augmentation, on the device."""
    options: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    """Changes to the objective's published settings."""
    settings: Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")] = ()
    """Any of the objective's settings, p_min=0.5 block=8,8,8 say; `mdae objectives NAME` lists them."""

    def __post_init__(self) -> None:
        read_changes(self.settings)
        require_words(self)
        for name in ("steps", "batch", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 1 or more")
        for name in ("devices", "seed", "accumulate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 0 or more")
        for name in ("checkpoint", "log"):
            if (cadence := self.cadences()[name]) is None or cadence.never:
                raise ConfigError(f"{name}_every is 0", mend="give 1 or more steps, or a time")
        for name, high in (("val_fraction", 1.0), ("warmup", 1.0), ("ema", 1.0), ("min_foreground", 1.0)):
            if not 0 <= getattr(self, name) < high:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="give 0 or more, and less than 1")
        if not all(0 <= weight < math.inf for weight in self.contrast_weights.values()):
            raise ConfigError("a weight of a contrast that is no number from 0", mend="give 0 or more")
        if not (0 <= self.lr <= LARGEST and self.clip > 0 and 0 <= self.weight_decay <= LARGEST):
            raise ConfigError(
                "clip must be above 0, lr and weight_decay 0 or more, and float32 must hold them",
                mend="change it",
            )
        if self.channels and (self.contrasts or self.contrast_weights):
            raise ConfigError("--channels with --contrasts or --contrast-weights", mend="give one of them")
        if len(set(self.channels)) < len(self.channels):
            raise ConfigError(f"channels {' '.join(self.channels)}", mend="name each contrast once")
        if (self.label or self.site) and self.probe is None:
            raise ConfigError("--label or --site without a table", mend="give it: --probe labels.csv")
        if (self.probe or self.masks) and (cadence := self.cadences()["val"]) is not None and cadence.never:
            raise ConfigError("a probe looks at validations, and val_every is 0", mend="give --val-every")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule == "wsd" and not 0 < self.decay <= 1 - self.warmup:
            raise ConfigError(
                f"decay is {self.decay}", mend="give more than 0, and what --warmup leaves at most"
            )
        if any(steps < 1 for steps in self.extend):
            raise ConfigError(f"extend is {self.extend}", mend="give 1 step or more each time")
        if self.extend_lr and (
            len(self.extend_lr) != len(self.extend) or not all(0 <= lr <= LARGEST for lr in self.extend_lr)
        ):
            raise ConfigError(
                f"extend_lr is {self.extend_lr} for extensions of {self.extend}",
                mend="give a rate for each of --extend, 0 for that of --lr, or none",
            )

    @property
    def total_steps(self) -> int:
        """Optimiser steps with all extensions."""
        return self.steps + sum(self.extend)

    def cadences(self) -> dict[str, Cadence | None]:
        """How often what is done; None for what follows from the run."""
        names = ("log", "val", "picture", "checkpoint", "export")
        given = {name: getattr(self, f"{name}_every") for name in names}
        cadences = {
            name: None if name == "val" and value == "auto" else read_cadence(value, f"{name}_every")
            for name, value in given.items()
        }
        if cadences["export"] is not None and cadences["export"].never:
            cadences["export"] = Cadence(steps=self.total_steps)
        return cadences

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with the interrupted one, JSON-able.

        Left out is what may change between two starts without changing any number that matters: where the run
        lies, how often it looks and logs, and the machine it is on.
        """
        free = (
            *("out", "store", "devices", "accelerator", "workers", "whole_files"),
            *("checkpoint_every", "picture_every", "val_every", "log_every", "plugin"),
            *("accumulate", "max_skipped", "export_every", "export_now", "dry_run", "recompute"),
            *("probe", "label", "site", "masks", "wandb"),
        )
        values = {name: value for name, value in asdict(self).items() if name not in free}
        values = {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
        values["options"] = self.options.given()
        values["settings"] = read_changes(self.settings)
        return values
