"""Co-registered contrasts of one session as the channels of one volume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mdae.data.preprocess import UNKNOWN
from mdae.data.store import Store, StoredScan
from mdae.errors import DataError
from mdae.text import counted
from mdae.types import Shape3

SAME_MM = 1e-2  # entries of two affines that differ by less are the same
JOINT = "+"  # between the names of contrasts that are seen together


@dataclass(frozen=True, slots=True)
class Stack:
    """The channels of one session, on one grid.

    It is called by its first scan, and has what a `StoredScan` has as far as runs and tables go.

    Attributes:
        scans: one a channel, in order; None for a contrast that the session lacks.
        contrast: the names of all channels.
    """

    scans: tuple[StoredScan | None, ...]
    contrast: str

    @property
    def present(self) -> list[StoredScan]:
        """The scans that there are."""
        return [scan for scan in self.scans if scan is not None]

    @property
    def first(self) -> StoredScan:
        """The first scan that there is."""
        return self.present[0]

    @property
    def scan_id(self) -> str:
        return self.first.scan_id

    @property
    def subject(self) -> str:
        return self.first.subject

    @property
    def session(self) -> str:
        return self.first.session

    @property
    def source(self) -> str:
        return self.first.source

    @property
    def shape(self) -> Shape3:
        return self.first.shape

    @property
    def content(self) -> str:
        """Of every channel's voxels."""
        return JOINT.join("" if scan is None else scan.content for scan in self.scans)

    @property
    def background(self) -> tuple[float, ...]:
        """Of each channel; `UNKNOWN` for one that is lacking."""
        return tuple(UNKNOWN if scan is None else scan.background for scan in self.scans)

    @property
    def unknown(self) -> float:
        """The share of its voxels that nobody knows."""
        return sum(1.0 if scan is None else scan.unknown for scan in self.scans) / len(self.scans)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be told of it, and what it lacks."""
        told = lacks(self.contrast.split(JOINT), self.scans)
        return tuple(dict.fromkeys([note for scan in self.present for note in scan.notes] + told))


def lacks(channels: Sequence[str], found: Sequence[object | None]) -> list[str]:
    """What a session lacks, in a line; none if it has all."""
    lacking = [name for name, own in zip(channels, found, strict=True) if own is None]
    return [f"lacks {', '.join(lacking)}"] if lacking else []


def stacks(
    store: Store, channels: Sequence[str], *, whole: bool = False, scans: Iterable[StoredScan] | None = None
) -> list[Stack]:
    """The sessions of a store that have any of these contrasts, by their first scan's name.

    Of several scans of one contrast in a session the first by name is taken.

    Args:
        store: whose volumes.
        channels: names of contrasts, in order.
        whole: leave out sessions that lack one.
        scans: of the store, to choose from; all if left out.

    Raises:
        DataError: a contrast that no scan has, no session with all, or contrasts of a session on different grids.
    """
    sessions: dict[tuple[str, str], dict[str, StoredScan]] = {}
    listed = store.scans if scans is None else list(scans)
    for scan in sorted(listed, key=lambda scan: scan.scan_id):
        sessions.setdefault((scan.subject, scan.session), {}).setdefault(scan.contrast, scan)
    there = {name for own in sessions.values() for name in own}
    if missing := [name for name in channels if name not in there]:
        raise DataError(
            f"no scan of contrast {', '.join(missing)}",
            where=store.path,
            mend=f"it holds {', '.join(sorted(there))}",
        )
    found = [
        Stack(tuple(own.get(name) for name in channels), JOINT.join(channels)) for own in sessions.values()
    ]
    found = [own for own in found if len(own.present) == len(channels) or (own.present and not whole)]
    if not found:
        raise DataError(
            f"no session has all of {', '.join(channels)}",
            where=store.path,
            mend="--lacking hide takes those that lack one, with that channel hidden",
        )
    _require_one_grid(store, found)
    return sorted(found, key=lambda own: own.scan_id)


def _require_one_grid(store: Store, found: Sequence[Stack]) -> None:
    """Raise `DataError` for sessions whose scans lie on different grids."""
    apart = [own for own in found if not all(_same_grid(store, own.first, scan) for scan in own.present[1:])]
    if apart:
        raise DataError(
            f"the contrasts of {counted(len(apart), 'session')} lie on different grids, e.g. those of "
            f"{apart[0].subject} {apart[0].session}".rstrip(),
            where=store.path,
            mend="prepare them on one: mdae prepare SOURCE NEW_STORE --together",
        )


def _same_grid(store: Store, one: StoredScan, other: StoredScan) -> bool:
    """Whether two prepared volumes have one grid: known if they were prepared together, else by their records."""
    if one.shape != other.shape:
        return False
    if one.together and one.together == other.together:
        return True
    here, there = (np.array(store.record(scan).affine) for scan in (one, other))
    return bool(np.allclose(here, there, rtol=0, atol=SAME_MM))


def read_crop(store: Store, scan: StoredScan | Stack, start: Shape3, size: Shape3) -> np.ndarray:
    """A crop (C, D, H, W), float16, NaN where unknown, as `Store.read_crop` has it."""
    if isinstance(scan, StoredScan):
        return store.read_crop(scan, start, size)[None]
    unknown = np.full(size, np.nan, dtype=np.float16)
    return np.stack([unknown if own is None else store.read_crop(own, start, size) for own in scan.scans])


def read(store: Store, scan: StoredScan | Stack) -> np.ndarray:
    """A whole volume (C, D, H, W), float16; `UNKNOWN` where it is unknown, as in training."""
    volume = read_crop(store, scan, (0, 0, 0), scan.shape)
    volume[np.isnan(volume)] = UNKNOWN
    return volume


def backgrounds(scan: StoredScan | Stack) -> tuple[float, ...]:
    """Of each channel."""
    return scan.background if isinstance(scan, Stack) else (scan.background,)
