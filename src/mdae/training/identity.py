"""Which run it is: what a resumed one must have in common with the interrupted one, and what is said if it has not."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mdae.data.stack import Stack
from mdae.data.store import StoredScan
from mdae.errors import ConfigError
from mdae.files import atomic_write
from mdae.training.config import PretrainConfig
from mdae.training.launch import World, shared

SCANS = "scans.csv"  # beside the checkpoints: what they were trained on
ELSEWHERE = "give another folder for the run"


def data_hash(scans: Sequence[StoredScan | Stack], parts: Mapping[str, str]) -> str:
    """A hash of the scans and of who is trained on."""
    names = "\0".join(f"{scan.scan_id} {scan.content} {parts[scan.subject]}" for scan in scans)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], published: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What of a run's identity has changed, by name: what it was and what it is.

    An option that the version which wrote it did not have yet was as it is by default, and one that no longer counts
    does not. Lists that JSON made of tuples are the same.

    Args:
        before, now: two identities.
        published: the default of each of the objective's settings.
    """
    before, now = json.loads(json.dumps(before)), json.loads(json.dumps(now))
    config = {item.name: item for item in fields(PretrainConfig)}
    found = {}
    for name in sorted(before.keys() | now.keys()):
        if name not in now and name in config:
            continue
        if name in now and name not in before:
            was = _by_default(name, now[name], config, published)
        else:
            was = before[name]
        if name == "precision" and was == "auto":  # as older versions wrote it
            continue
        if was != now.get(name):
            found[name] = was, now.get(name)
    return found


def _by_default(name: str, now: Any, config: Mapping[str, Any], published: Mapping[str, Any]) -> Any:
    if name in published:
        return json.loads(json.dumps(published[name]))
    if name not in config:
        return now
    item = config[name]
    value = item.default if item.default is not MISSING else item.default_factory()
    return json.loads(json.dumps(value, default=vars))


def require_same(
    path: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    published: Mapping[str, Any],
    data_change: str,
) -> None:
    """Raise `ConfigError` unless what lies at `path` is this very run's.

    Args:
        path: a checkpoint or the record of a run.
        before, now, published: as for `changes`.
        data_change: what to say if the data are others.
    """
    found = changes(before, now, published)
    if not found:
        return
    told = [f"{name} was {was!r} and is {value!r}" for name, (was, value) in found.items() if name != "data"]
    if "data" in found:
        told.append(data_change)
    raise ConfigError(
        f"it is of another run: {', '.join(told)}",
        where=path,
        mend=f"repeat the first command, or {ELSEWHERE}",
    )


def require_one_run(world: World, config: PretrainConfig, identity: Mapping[str, Any]) -> None:
    """Raise `ConfigError` on every process if they were started with different options or see different data."""
    machine = ("out", "store", "plugin", "devices", "workers", "whole_files", "accelerator")
    values = {f.name: repr(getattr(config, f.name)) for f in fields(config) if f.name not in machine}
    values |= {name: repr(value) for name, value in identity.items()}
    all_values = world.everywhere(values)
    for rank, others in enumerate(all_values):
        names = [name for name in all_values[0] if others.get(name) != all_values[0][name]]
        if names:
            told = ", ".join(f"{name} is {others.get(name)} and {all_values[0][name]}" for name in names)
            raise shared(
                ConfigError(
                    f"processes {rank} and 0 were started as different runs: {told}",
                    mend="give all of them one command and one store",
                )
            )


def write_scans(folder: Path, scans: Sequence[StoredScan | Stack], parts: Mapping[str, str]) -> None:
    """Note what is trained on, so that a change of it can be told by name."""
    with atomic_write(folder / SCANS) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("scan", "subject", "content", "split")]
            + [(scan.scan_id, scan.subject, scan.content, parts[scan.subject]) for scan in scans]
        )


def data_change(folder: Path, scans: Sequence[StoredScan | Stack], parts: Mapping[str, str]) -> str:
    """What has changed since `write_scans`: scans that came, went or are others, and subjects that changed sides."""
    try:
        with (folder / SCANS).open(newline="") as file:
            before = {row["scan"]: row for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return "the scans or the split have changed"
    now = {scan.scan_id: scan for scan in scans}
    sides = {row["subject"]: row["split"] for row in before.values()}
    moved = {s: f"{s} from {sides[s]} to {parts[s]}" for s in sides if s in parts and parts[s] != sides[s]}
    both = before.keys() & now.keys()
    told = [
        _some("scan(s) came", now.keys() - before.keys()),
        _some("scan(s) went", before.keys() - now.keys()),
        _some("scan(s) have other voxels", {n for n in both if before[n]["content"] != now[n].content}),
        _some("subject(s) changed sides", set(moved.values())),
    ]
    return ", ".join(text for text in told if text) or "the scans or the split have changed"


def _some(what: str, names: set[str]) -> str:
    return (
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        if names
        else ""
    )
