"""The contrasts of one session, prepared on one grid, as the channels of a model of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mdae.data.catalogue import ScanEntry, sessions_together
from mdae.data.contrasts import by_channel
from mdae.data.preprocess import UNKNOWN, PreparedRecord, PreparedScan
from mdae.data.stack import JOINT, lacks
from mdae.errors import ConfigError


@dataclass(frozen=True)
class PreparedSession(PreparedScan):
    """A volume of several contrasts, (C, D, H, W); `UNKNOWN` in a channel that is lacking.

    Its record is that of the scan whose grid all lie on, with the contents and notes of all.

    Attributes:
        background: of each channel.
        records: of each channel, None for one that is lacking.
    """

    background: tuple[float, ...]
    records: tuple[PreparedRecord | None, ...]


def background_of(prepared: PreparedScan) -> float | tuple[float, ...]:
    """The value outside the head, or that of each channel of a session."""
    return prepared.background if isinstance(prepared, PreparedSession) else prepared.record.background


def require_single(channels: Sequence[str]) -> None:
    """Raise `ConfigError` for a model of several contrasts, where single scans are given."""
    if channels:
        raise ConfigError(
            f"a model of {len(channels)} channels ({', '.join(channels)}) takes no single scans",
            mend="give the contrasts of a session together, or use a model of one contrast",
        )


def prepare_session(
    scans: Mapping[str, str | Path | ScanEntry],
    channels: Sequence[str],
    prepare: Callable[[ScanEntry], PreparedScan],
) -> PreparedSession:
    """Prepare the scans of a session on the grid of one of them, as `mdae prepare --together` does.

    Args:
        scans: by their contrasts.
        channels: the contrasts that a model wants, in order.
        prepare: one scan by the model's contract.

    Raises:
        ScanError: an unfit scan.
        ConfigError: no channels, or scans that are none of them.
    """
    if not channels:
        raise ConfigError("a model of single scans", mend="give it one scan at a time")
    if not scans or (strange := sorted(scans.keys() - set(channels))):
        raise ConfigError(
            f"scans of {', '.join(strange) if scans else 'no contrast'} for a model of {', '.join(channels)}",
            mend="name each scan by one of the model's channels",
        )
    entries = [_entry(name, scan) for name, scan in scans.items()]
    prepared = {entry.contrast: prepare(entry) for entry in _first_first(sessions_together(entries))}
    first = next(iter(prepared.values()))
    found = [prepared.get(name) for name in channels]
    notes = [note for own in prepared.values() for note in own.record.notes]
    notes += lacks(channels, found)
    contents = JOINT.join(own.record.content for own in found if own is not None)
    return PreparedSession(
        data=np.stack([np.full_like(first.data, UNKNOWN) if own is None else own.data for own in found]),
        affine=first.affine,
        record=replace(first.record, content=contents, notes=tuple(dict.fromkeys(notes))),
        background=tuple(UNKNOWN if own is None else own.record.background for own in found),
        records=tuple(None if own is None else own.record for own in found),
    )


def session_entry(scans: Mapping[str, ScanEntry], channels: Sequence[str]) -> ScanEntry:
    """The scans of a session as one entry, for what takes entries; raises `ConfigError` if none is a channel's."""
    named = by_channel(scans, channels)
    own = [replace(scans[named[name]], contrast=name, together=()) for name in channels if name in named]
    if not own:
        raise ConfigError(
            f"scans of {', '.join(scans)} for a model of {', '.join(channels)}",
            mend="use a task of the model's channels",
        )
    return replace(own[0], contrast=JOINT.join(channels), together=tuple(own))


def _entry(contrast: str, scan: str | Path | ScanEntry) -> ScanEntry:
    """An entry of that contrast and of the one session that is at hand."""
    entry = scan if isinstance(scan, ScanEntry) else ScanEntry("", "", "", "", Path(scan))
    return replace(entry, scan_id=entry.scan_id or contrast, subject="", session="", contrast=contrast)


def _first_first(entries: list[ScanEntry]) -> list[ScanEntry]:
    """The scan that gives its grid before those that are brought to it."""
    return sorted(entries, key=lambda entry: bool(entry.together) and entry.together[0].path != entry.path)
