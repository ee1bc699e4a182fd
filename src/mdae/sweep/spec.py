"""What a sweep is: a YAML file, and the runs that it asks for, each known by a hash of what its result depends on."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from mdae.errors import ConfigError
from mdae.evaluation.configs import EvaluateConfig
from mdae.files import read_yaml
from mdae.networks import preset
from mdae.objectives.registry import objective_config
from mdae.objectives.settings import flatten
from mdae.options import AugmentOptions, read_changes
from mdae.plugin import load_plugin
from mdae.tasks.catalogue import find_task
from mdae.tasks.record import CONTRASTS_KEY
from mdae.training.config import PretrainConfig
from mdae.training.settled import settled

OPTIONS = {item.name for item in fields(PretrainConfig)} - {
    "out",
    "settings",
    "options",
    "augment",
    "dry_run",
}
AUGMENT = "augment."  # before the options of augmentation, whose names some objectives have as well
OF_TASK = {"task", "data", "protocol", "contrasts", "split", "window", "pool", "folds", "repeats"}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A sweep.

    Attributes:
        path: its file; paths in it are relative to the file's folder.
        base: options of `mdae pretrain` and settings of the objective that all runs share.
        variants: by name, what each changes of them.
        seeds: each variant is run with every one.
        tasks: what judges the runs: options of `mdae evaluate`.
        baseline: the variant that the others are compared with.
    """

    path: Path
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[dict[str, Any], ...] = field(default=())
    baseline: str

    def runs(self) -> list[SweepRun]:
        """All runs, seed by seed, so that a sweep that is looked at early has some of everything."""
        return [
            SweepRun(name, seed, {**self.base, **changes}, self)
            for seed in self.seeds
            for name, changes in self.variants.items()
        ]

    @cached_property
    def trials(self) -> dict[str, dict[str, Any]]:
        """Options of `mdae evaluate` for each of the tasks, by a hash of them and of the tasks' records."""
        found = {}
        for trial in _trials(self):
            records = [find_task(name).to_dict() for name in trial["task"]]
            found[_hash([records, {name: value for name, value in trial.items() if name != "task"}])] = trial
        return found

    def require_data(self) -> None:
        """Raise `ConfigError` if a task's data, or its split, is not there."""
        for trial in self.trials.values():
            for name in ("data", "split"):
                if trial.get(name) is not None and not trial[name].exists():
                    raise ConfigError("no such file or folder", where=trial[name], mend=f"change {name}")

    def axes(self) -> list[str]:
        """What the variants differ in, in the order in which it is first named."""
        names = dict.fromkeys(name for changes in self.variants.values() for name in changes)
        return [name for name in names if len({repr(v.get(name)) for v in self.variants.values()}) > 1]


@dataclass(frozen=True, eq=False)
class SweepRun:
    """One run: a variant with a seed.

    Attributes:
        variant: its name.
        seed: of pre-training; folds of the tasks are the same for all runs, so that these are compared on them.
        options: of `mdae pretrain`, and settings of the objective.
        spec: whose.
    """

    variant: str
    seed: int
    options: Mapping[str, Any]
    spec: Spec

    def pretraining(self, folder: Path) -> PretrainConfig:
        """What is run; raises `ConfigError` for an option or a setting that there is not."""
        given = {name: _typed(value) for name, value in self.options.items() if name in OPTIONS}
        for name in ("store", "plugin", "probe", "masks"):
            if given.get(name) is not None:
                given[name] = self.spec.path.parent / given[name]
        if (beside := self.spec.path.parent / str(given.get("init", ""))).exists() and given.get("init"):
            given["init"] = str(beside)  # else it is on the Hub
        augment = {
            name.removeprefix(AUGMENT): value
            for name, value in self.options.items()
            if name.startswith(AUGMENT)
        }
        settings = tuple(
            f"{name}={_text(value)}"
            for name, value in self.options.items()
            if name not in OPTIONS and not name.startswith(AUGMENT)
        )
        try:
            return PretrainConfig(
                out=folder / "run",
                seed=self.seed,
                settings=settings,
                augment=AugmentOptions(**augment),
                **given,
            )
        except TypeError as error:
            raise ConfigError(
                f"variant {self.variant}: {error}", where=self.spec.path, mend="check its options"
            ) from error

    def evaluations(self, folder: Path) -> dict[str, EvaluateConfig]:
        """How it is judged, by a hash of each way."""
        model, results = str(folder / "run" / "model"), folder / "results"
        configs = {}
        for key, trial in self.spec.trials.items():
            options = {"contrasts" if name == CONTRASTS_KEY else name: own for name, own in trial.items()}
            configs[key] = EvaluateConfig(encoder=model, out=results / key, name=self.key, **options)
        return configs

    @cached_property
    def key(self) -> str:
        """The same for pre-trainings that would come out the same, however their options are written."""
        config = self.pretraining(Path())
        if config.plugin is not None:
            load_plugin(config.plugin)
        config = settled(config)
        settings = objective_config(config.objective, config.options, read_changes(config.settings))
        values = config.fingerprint()
        del values["options"], values["settings"]
        about = {
            "pretraining": {**values, "accumulate": config.accumulate},
            "store": str(config.store.resolve()),
            "settings": flatten(settings),
        }
        return _hash(about)


def _hash(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _trials(spec: Spec) -> Iterator[dict[str, Any]]:
    """Options of `mdae evaluate`, with whole paths, so that a trial is the same from wherever the file is named."""
    here = spec.path.resolve().parent
    for task in spec.tasks:
        values = {name: _typed(value) for name, value in task.items()}
        names = values.pop("task")
        own = (names,) if isinstance(names, str) else names
        values["task"] = tuple(str(here / name) if (here / name).exists() else name for name in own)
        for name in ("data", "split"):
            if values.get(name) is not None:
                values[name] = here / values[name]
        if "contrasts" in values:
            values[CONTRASTS_KEY] = values.pop("contrasts")  # by which trials are known
        if isinstance(values.get(CONTRASTS_KEY), str):
            values[CONTRASTS_KEY] = (values[CONTRASTS_KEY],)
        yield values


def _typed(value: Any) -> Any:
    """Lists of YAML are tuples of ours."""
    return tuple(_typed(item) for item in value) if isinstance(value, list) else value


def _text(value: Any) -> str:
    """A setting as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def read_spec(path: Path) -> Spec:
    """A sweep from its file, every run of it checked.

    `base` holds what all runs share; `axes` a list of values for each of several names, every combination of which is
    a variant; `variants` variants by name. `seeds`, `tasks` and `baseline` (a variant's name, else the first one's).

    Raises:
        ConfigError: no such file, or anything in it that cannot be carried out.
    """
    content = read_yaml(path, "a sweep's")
    known = {"base", "axes", "variants", "seeds", "tasks", "baseline"}
    if not isinstance(content, dict) or set(content) - known or not content.get("base"):
        extra = sorted(set(content) - known) if isinstance(content, dict) else []
        said = f"it has {', '.join(map(str, extra))}" if extra else "it has no base"
        raise ConfigError(f"not a sweep: {said}", where=path, mend=f"use {', '.join(sorted(known))}")
    try:
        variants = {**_combinations(content.get("axes") or {}), **(content.get("variants") or {})}
        spec = Spec(
            path=path,
            base=dict(content["base"]),
            variants={str(name): dict(changes or {}) for name, changes in variants.items()} or {"base": {}},
            seeds=tuple(int(seed) for seed in content.get("seeds", (0,))),
            tasks=tuple(dict(task) for task in content.get("tasks") or ()),
            baseline=str(content.get("baseline") or next(iter(variants), "base")),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a sweep: {error}", where=path, mend="see docs/sweep.md") from error
    _check(spec)
    return spec


def _combinations(axes: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of the axes' values, named by them."""
    if not axes:
        return {}
    combined = (
        dict(zip(axes, values, strict=True)) for values in itertools.product(*(axes[name] for name in axes))
    )
    return {" ".join(f"{name}={_text(value)}" for name, value in one.items()): one for one in combined}


def _check(spec: Spec) -> None:
    """Find what cannot be carried out before anything is run."""
    if spec.baseline not in spec.variants:
        raise ConfigError(
            f"no variant {spec.baseline!r}", where=spec.path, mend=f"use one of {', '.join(spec.variants)}"
        )
    if "seed" in spec.base or any("seed" in changes for changes in spec.variants.values()):
        raise ConfigError("seed is no option of a variant", where=spec.path, mend="give seeds: [0, 1, 2]")
    for task in spec.tasks:
        if "task" not in task or set(task) - OF_TASK - {CONTRASTS_KEY}:
            wrong = sorted(set(task) - OF_TASK - {CONTRASTS_KEY})
            raise ConfigError(
                f"a task with {', '.join(wrong) or 'no name'}",
                where=spec.path,
                mend=f"use {', '.join(sorted(OF_TASK))}",
            )
    runs = spec.runs()
    for run in runs:
        _ = run.key
        config = run.pretraining(Path())
        preset(config.network).crop(config.patch)
    if runs:
        runs[0].evaluations(Path())  # the same for all
    judged = [
        (name, trial.get("protocol", "linear")) for trial in spec.trials.values() for name in trial["task"]
    ]
    if twice := next((one for one in judged if judged.count(one) > 1), None):
        raise ConfigError(
            f"two ways to judge by {twice[0]}, which the table would not tell apart",
            where=spec.path,
            mend="keep one pool and window, or give the task's record two names",
        )
