"""`mdae check`: what is in a store, what was set aside and why, and which jobs did not end well."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.data.cluster import ShardNote, read_notes, set_aside_by_shards
from mdae.data.set_aside import SetAside, by_reason, read_table
from mdae.data.splits import stale_splits
from mdae.data.store import Store
from mdae.errors import DataError, MDAEError
from mdae.progress import Progress
from mdae.text import counted


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Say what is in a store, what was set aside and why, and which jobs on a cluster failed."""

    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """The store that `mdae prepare` wrote."""
    volumes: bool = False
    """Also read every volume to its last voxel."""


@dataclass(frozen=True)
class StoreCheck:
    """What is in a store and what is not.

    Attributes:
        store: with its volumes.
        num_bytes: of the volumes on disk; what nnssl has preprocessed does not count.
        set_aside: scans that were not taken.
        unseen: what was not looked at: folders that are left out whole, participants without a scan.
        shards: those of the last submission that are not done.
        damaged: files that are no volumes, and volumes that cannot be read, if they were tried.
    """

    store: Store
    num_bytes: int
    set_aside: list[SetAside]
    unseen: list[SetAside]
    shards: list[ShardNote]
    damaged: list[MDAEError]

    @property
    def sound(self) -> bool:
        """Whether nothing is left to mend but scans that were set aside."""
        return not self.damaged and not any(note.state == "failed" for note in self.shards)

    def lines(self) -> Iterator[str]:
        """The same for people."""
        scans = self.store.scans
        spacing = " x ".join(f"{side:g}" for side in self.store.contract.spacing_mm)
        people = counted(len({scan.subject for scan in scans}), "subject")
        yield f"{counted(len(scans), 'volume')} of {people}, {spacing} mm, " + (
            f"{self.num_bytes / 1e9:.3f} GB: {self.store.path}"
        )
        contrasts = Counter(scan.contrast or "unknown" for scan in scans).most_common()
        yield "contrasts: " + ", ".join(f"{number} {name}" for name, number in contrasts)
        yield from (f"split: {path}" for path in sorted((self.store.path / "splits").glob("*.csv")))
        yield from stale_splits(self.store)
        told = [SetAside(scan.source, note.partition(": ")[0]) for scan in scans for note in scan.notes]
        yield from (["told of:", *by_reason(told)] if told else ())
        yield f"set aside: {len(self.set_aside)}"
        yield from by_reason([*self.set_aside, *self.unseen])
        yield from (_shard_line(note) for note in self.shards)
        yield from (f"damaged: {error}" for error in self.damaged)


def _shard_line(note: ShardNote) -> str:
    if note.state == "waiting":
        return f"shard {note.number} of {counted(note.num_scans, 'scan')}: not begun"
    if note.state == "failed":
        return f"shard {note.number} on {note.host} failed: {note.error}; log: {note.log}"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.since))
    return f"shard {note.number} on {note.host} runs since {began}, or was killed; log: {note.log}"


def check(config: CheckConfig) -> StoreCheck:
    """Look through a store; raises `DataError` where there is none."""
    store = Store.open(config.store, empty_ok=True)
    aside = set_aside_by_shards(store.path) | {row.path: row for row in read_table(store.path)}
    taken = {scan.source for scan in store.scans}
    return StoreCheck(
        store=store,
        num_bytes=sum(_size(store.volume_path(scan.scan_id)) for scan in store.scans),
        set_aside=[row for row in aside.values() if row.path not in taken and not row.unseen],
        unseen=[row for row in aside.values() if row.unseen],
        shards=[note for note in read_notes(store.path) if note.state != "done"],
        damaged=[*_strays(store), *(_damaged(store) if config.volumes else [])],
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _strays(store: Store) -> Iterator[MDAEError]:
    """Files among the volumes that are none."""
    for name in store.unreadable:
        yield DataError(
            "not a volume of this store", where=store.volume_path(name), mend="delete it and prepare again"
        )


def _damaged(store: Store) -> Iterator[MDAEError]:
    """What is wrong with volumes that cannot be read whole."""
    with Progress("reading", len(store.scans)) as progress:
        for scan in store.scans:
            try:
                store.record(scan)
                store.read(scan)
            except MDAEError as error:
                yield error
            except Exception as error:  # blosc2 raises several kinds for damaged blocks
                reason = " ".join(f"damaged voxels ({error})".split())
                where = store.volume_path(scan.scan_id)
                yield DataError(reason, where=where, mend="delete it and prepare again")
            progress.advance()
