"""Where a run goes on: at the checkpoint that the lead chooses, at its end, or at its beginning."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdae.errors import ConfigError, ModelError
from mdae.training.checkpoint import HELD, load_checkpoint, newest_readable
from mdae.training.identity import ELSEWHERE, data_change, require_same
from mdae.training.launch import World
from mdae.training.run import Run
from mdae.training.schedule import Leg, agree

logger = logging.getLogger(__name__)


def find_state(
    run: Run, identity: Mapping[str, Any], checkpoints: Path, world: World, legs: Sequence[Leg]
) -> dict[str, Any]:
    """The state to go on from: a checkpoint's; only its `step` for a run that is complete; nothing to begin.

    A run that is extended goes on from where the learning rates that it had are those that it has now.

    Raises:
        ConfigError: the folder holds another run, one that was extended otherwise, or one whose checkpoints are gone.
        ModelError: no checkpoint there can be read, or one is not seen by all processes.
    """
    mine: dict[str, Any] = {}

    def choose() -> tuple[str, int]:
        found = newest_readable(checkpoints, device=world.device)
        if found is None:
            return "", _without_checkpoints(run, identity)
        path, state = found
        _require_same(path, state["fingerprint"], run, identity)
        path, state = _on_the_way(path, state, legs, world)
        mine.update(state)
        return path.name, state["step"]

    name, step = world.told(choose)
    if not name:
        return {"step": step}
    return world.each(lambda: mine or _same_one(checkpoints / name, world))


def _on_the_way(
    path: Path, state: dict[str, Any], legs: Sequence[Leg], world: World
) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, or the one at which its rate began to fall if it is to be held longer now.

    Raises:
        ConfigError: its learning rates were others.
    """
    before = [Leg(**leg) for leg in state["legs"]] if "legs" in state else list(legs)
    if agree(before, legs, state["step"]):
        return path, state
    if legs[-1].last > before[-1].last:
        held = newest_readable(path.parent, device=world.device, kind=HELD)
        if held is not None and agree(before, legs, held[1]["step"]):
            logger.warning("goes on from step %d, up to which the learning rate was held", held[1]["step"])
            return held
    raise ConfigError(
        f"it has gone to step {state['step']} of {before[-1].last} with other learning rates than --extend and "
        "--extend-lr give now",
        where=path,
        mend=f"repeat what was given before, with more behind it, or {ELSEWHERE}",
    )


def _same_one(path: Path, world: World) -> dict[str, Any]:
    """The checkpoint that the lead chose, as another process sees it."""
    try:
        return load_checkpoint(path, device=world.device)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"process {world.place.rank} cannot read the checkpoint that process 0 chose ({type(error).__name__})",
            where=path,
            mend="put the run's folder on a file system that all machines see",
        ) from error


def _without_checkpoints(run: Run, identity: Mapping[str, Any]) -> int:
    """The steps that are behind a run without checkpoints: all of them if it is complete, else none.

    A model or a log is never written over by another run.
    """
    out = run.config.out
    record, model = _read_json(out / "run.json"), _read_json(out / "model" / "config.json")
    if record is not None:
        _require_same(out / "run.json", record, run, identity)
    if model is None:
        return 0
    steps = model.get("provenance", {}).get("steps")
    if record is not None and steps == run.config.total_steps:
        return int(steps)
    raise ConfigError(
        f"it holds a model of {steps} steps whose checkpoints are gone",
        where=out,
        mend=f"{ELSEWHERE}, or move that model away",
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """What a file says; None if there is none, nothing if it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_same(path: Path, before: Mapping[str, Any], run: Run, identity: Mapping[str, Any]) -> None:
    change = data_change(run.config.out / "checkpoints", run.scans, run.parts)
    require_same(path, before, identity, run.published, change)
