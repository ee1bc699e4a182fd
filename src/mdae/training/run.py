"""What a run is made of before the first step: its store, split, samplers and untrained objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdae.data.catalogue import split_by_subject
from mdae.data.sampling import CropSampler
from mdae.data.splits import read_split
from mdae.data.stack import Stack, stacks
from mdae.data.store import Store, StoredScan
from mdae.data.subjects import warn_of_one
from mdae.errors import ConfigError, DataError
from mdae.interop.begin import Begun, begin_with
from mdae.networks import preset
from mdae.networks.saved import SavedModel, manifest, save_model
from mdae.objectives import Objective, build_objective, objective_config
from mdae.objectives.registry import describe
from mdae.objectives.settings import flatten
from mdae.options import ObjectiveOptions, read_changes
from mdae.plugin import load_plugin
from mdae.seeding import key, torch_generator
from mdae.training.cadence import Cadence
from mdae.training.config import LATER, PretrainConfig
from mdae.training.identity import data_hash
from mdae.training.settled import large_blocks, settled
from mdae.training.step import StepSettings
from mdae.types import Shape3

MAX_VALIDATION = 64  # volumes; enough for a steady mean
LOOKED_AT = 64  # crops whose features are looked at besides
SHARE = 0.05  # of the run's arithmetic that validations may cost, if nobody says how often
MOST_ROWS = 200  # of them
MOST_ELEMENTS = 2**31  # of a tensor that kernels with 32-bit indices take
SETTINGS = "settings."  # before the names of an objective's settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The fixed parts of a run.

    Attributes:
        scans: those of the wanted contrasts and subjects, or their sessions, whose scans are channels.
        parts: "train" or "val" by subject.
        patch: the crop in voxels.
        train, validation: samplers of crops; `validation` is None when nobody is held out.
        num_validation: the validation volumes, samples 0 to this.
        partly_unknown: whether some scans have voxels that nobody knows.
        objective: on its untrained network, whose weights follow from the seed, or are those it was to begin with.
        settings: the objective's, a frozen dataclass.
        begun: with what it began, if with weights of elsewhere.
    """

    config: PretrainConfig
    store: Store
    scans: list[StoredScan | Stack]
    parts: dict[str, str]
    patch: Shape3
    train: CropSampler
    validation: CropSampler | None
    num_validation: int
    partly_unknown: bool
    objective: Objective
    settings: Any
    begun: Begun | None = None

    def identity(self, *, precision: str, micro_batch: int) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one: options, the objective's settings and data.

        Args:
            precision: the arithmetic that is used.
            micro_batch: what a device takes at once; it matters where samples are compared with each other.
        """
        config = self.config
        values = config.fingerprint()
        for name in ("options", "settings", "extend", "extend_lr", "init", "init_decoder"):
            values.pop(
                name, None
            )  # said by the settings, by the learning rates so far, and by the weights themselves
        values |= {
            "schedule": config.schedule,
            "decay": LATER["decay"] if config.schedule == "cosine" else config.decay,
        }
        values["init"] = "" if self.begun is None else self.begun.identity
        values |= {f"{SETTINGS}{path}": value for path, value in flatten(self.settings).items()}
        if self.objective.mixes_samples:
            values["micro_batch"] = micro_batch
        return {**values, "precision": precision, "data": data_hash(self.scans, self.parts)}

    @property
    def published(self) -> dict[str, Any]:
        """The default of each of the objective's settings, by its name in `identity`."""
        standard = objective_config(self.config.objective, ObjectiveOptions(), {})
        return {f"{SETTINGS}{path}": value for path, value in flatten(standard).items()}

    @property
    def cadences(self) -> dict[str, Cadence]:
        """How often what is done."""
        given = self.config.cadences()
        return {name: cadence or self._seldom_enough() for name, cadence in given.items()}

    def _seldom_enough(self) -> Cadence:
        """Validations that cost `SHARE` of the run's arithmetic at most, and no more than `MOST_ROWS` of them.

        A volume that is looked at costs a third of one that is trained on, one that is only encoded half of that.
        """
        cost = (self.num_validation / 3 + LOOKED_AT / 6) / self.config.batch
        steps = max(math.ceil(cost / SHARE), math.ceil(self.config.steps / MOST_ROWS))
        return Cadence(steps=steps)

    def check_micro_batch(self, size: int) -> None:
        """Raise `ConfigError` for what the objective cannot learn from, or kernels cannot count."""
        self.objective.check_batch(size)
        if not self.countable(size):
            largest = self._elements(size)
            fitting = max(1, (MOST_ELEMENTS - 1) * size // largest)
            raise ConfigError(
                f"micro-batches of {size} volumes of {'x'.join(map(str, self.patch))} make maps of {largest:.2g} "
                "numbers, more than 32-bit indices count",
                mend=f"use --accumulate for {fitting} or fewer at once",
            )

    def countable(self, size: int) -> bool:
        """Whether kernels with 32-bit indices can count the maps of so many volumes."""
        return self._elements(size) < MOST_ELEMENTS

    def _elements(self, size: int) -> int:
        return size * self.objective.network.largest_map(self.patch)

    def step_settings(self, *, bf16: bool) -> StepSettings:
        """What a step does around the objective."""
        return StepSettings(
            seed=self.config.seed,
            clip=self.config.clip,
            bf16=bf16,
            augment=self.config.augment,
            patch=self.patch,
            spacing_mm=self.store.contract.spacing_mm,
            partly_unknown=self.partly_unknown,
        )

    def describe_objective(self) -> dict[str, Any]:
        """The objective's record for a saved model."""
        return describe(self.config.objective, self.settings)


def open_run(config: PretrainConfig) -> Run:
    """Open the store, split its subjects and build the objective; every bad option is found here."""
    if config.plugin is not None:
        load_plugin(config.plugin)
    _tell_of_large_blocks(config)
    config = settled(config)
    chosen = preset(config.network)
    patch = chosen.crop(config.patch)
    changes = read_changes(config.settings)
    settings = objective_config(config.objective, config.options, changes)
    objective = build_objective(
        config.objective,
        chosen.new(torch_generator(config.seed, "weights"), in_channels=max(1, len(config.channels))),
        config.options,
        changes,
        generator=torch_generator(config.seed, "heads"),
    )
    objective.network.recompute(config.recompute)
    store = Store.open(config.store)
    store.whole_files = config.whole_files
    scans = _chosen_scans(store, config)
    parts = _parts(config, scans)
    scans = [scan for scan in scans if scan.subject in parts]
    weights = config.contrast_weights
    train = CropSampler(
        [scan for scan in scans if parts[scan.subject] == "train"], patch, config.seed, weights
    )
    held_out = [scan for scan in scans if parts[scan.subject] == "val"]
    validation = CropSampler(held_out, patch, key(config.seed, "validation")) if held_out else None
    return Run(
        config=config,
        store=store,
        scans=scans,
        parts=parts,
        patch=patch,
        train=train,
        validation=validation,
        num_validation=min(len({scan.subject for scan in held_out}), MAX_VALIDATION),
        partly_unknown=any(scan.unknown > 0 for scan in scans),
        objective=objective,
        settings=settings,
        begun=_begin(config, objective, store),
    )


def _tell_of_large_blocks(config: PretrainConfig) -> None:
    if (large := large_blocks(config)) is None:
        return
    block, patch, finer = ("x".join(map(str, own)) for own in (large.block, large.patch, large.finer))
    if large.asked:
        logger.warning(
            "mask blocks of %s voxels are half of a crop of %s or more; left out, they are %s",
            block,
            patch,
            finer,
        )
    else:
        logger.info("mask blocks of %s voxels, for %s would be half of a crop of %s", finer, block, patch)


def _begin(config: PretrainConfig, objective: Objective, store: Store) -> Begun | None:
    if not config.init:
        return None
    from mdae.interop.initial import read_initial  # here: few runs begin with anything

    initial, decoder = read_initial(config.init), config.init_decoder
    return begin_with(
        objective.network,
        initial,
        store.contract,
        decoder=decoder,
        name=config.network,
        channels=config.channels,
    )


def _parts(config: PretrainConfig, scans: Sequence[StoredScan | Stack]) -> dict[str, str]:
    """Who is trained on and who is held out; of a stored split, those for testing are left out altogether."""
    subjects = sorted({scan.subject for scan in scans})
    warn_of_one(len(subjects), len(scans), subjects[0], config.store)
    if not config.split:
        held_out = split_by_subject(subjects, fraction=config.val_fraction, seed=config.seed)
        return {name: "val" if name in held_out else "train" for name in subjects}
    parts = read_split(config.store, config.split)
    strangers = [name for name in subjects if name not in parts]
    if strangers:
        logger.warning(
            "%d of %d subjects, e.g. %s, are not in split %s and are left out",
            *(len(strangers), len(subjects), strangers[0], config.split),
        )
    return {name: parts[name] for name in subjects if parts.get(name) in ("train", "val")}


def _chosen_scans(store: Store, config: PretrainConfig) -> Sequence[StoredScan | Stack]:
    """The store's sessions with the wanted channels, or its scans of the wanted contrasts.

    A weight of 0 is as good as not wanted.
    """
    if config.channels:
        return stacks(store, config.channels, whole=config.lacking == "leave_out")
    contrasts, weights = config.contrasts, config.contrast_weights
    there = {scan.contrast for scan in store.scans}
    unknown = sorted({*contrasts, *weights} - there)
    if unknown:
        raise DataError(
            f"no scan of contrast {', '.join(unknown)}",
            where=store.path,
            mend=f"it holds {', '.join(sorted(there))}",
        )
    wanted = {name for name in contrasts or there if weights.get(name, 1.0) > 0}
    return [scan for scan in store.scans if scan.contrast in wanted]


def micro_batch_size(config: PretrainConfig, world: int) -> int:
    """How many volumes a device takes at once, all of its share if that is left open."""
    accumulate = config.accumulate or 1
    if config.batch % (world * accumulate):
        fitting = math.ceil(config.batch / (world * accumulate)) * world * accumulate
        raise ConfigError(
            f"batch {config.batch} does not divide over {world} device(s) x {accumulate} micro-batch(es)",
            mend=f"use --batch {fitting}",
        )
    return config.batch // (world * accumulate)


def export(run: Run, folder: Path, step: int) -> None:
    """Write the model folder of a run after so many steps."""
    before = {} if run.begun is None else run.begun.initial.seen
    scans = [own for scan in run.scans for own in (scan.present if isinstance(scan, Stack) else [scan])]
    provenance = {
        "steps": step,
        "volumes": step * run.config.batch,
        "seed": run.config.seed,
        "contrasts": sorted({scan.contrast for scan in scans}),
        "modalities": sorted({scan.modality for scan in scans} - {""}),
        "num_scans": len(scans),
        "subjects": manifest((scan.subject for scan in scans), before.get("subjects")),
        "scans": manifest((scan.content for scan in scans), before.get("scans")),
    }
    if run.begun is not None:
        provenance["init"] = run.begun.provenance()
    model = SavedModel(
        network=run.objective.network,
        contract=run.store.contract,
        patch=run.patch,
        channels=run.config.channels,
        objective=run.describe_objective(),
        provenance=provenance,
    )
    save_model(folder, model)
