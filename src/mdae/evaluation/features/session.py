"""The contrasts of one session, prepared on one grid, as the channels of a model of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mdae.data.catalogue import ScanEntry, sessions_together
from mdae.data.contrasts import by_channel
from mdae.data.preprocess import UNKNOWN, PreparedRecord, PreparedScan
from mdae.data.set_aside import SetAside
from mdae.data.stack import JOINT, lacks
from mdae.errors import ConfigError, DataError
from mdae.text import printable


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

    @property
    def first(self) -> np.ndarray:
        """The first channel that there is, (D, H, W)."""
        place = next(index for index, record in enumerate(self.records) if record is not None)
        return np.asarray(self.data[place])


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


def sessions_of(
    entries: Sequence[ScanEntry], channels: Sequence[str], source: Path
) -> tuple[list[dict[str, ScanEntry]], list[SetAside]]:
    """The scans of each session that are a model's channels, by channel; and those that are none.

    Args:
        entries: of a source.
        channels: the contrasts that the model wants, in order.
        source: for errors.

    Raises:
        DataError: no scan of a contrast that the model takes.
    """
    named = by_channel(dict.fromkeys(entry.contrast for entry in entries), channels)
    channel_of = {name: channel for channel, name in named.items()}
    sessions: dict[tuple[str, str], dict[str, ScanEntry]] = {}
    others = []
    for entry in sorted(entries, key=lambda entry: entry.scan_id):
        own = sessions.setdefault((entry.subject, entry.session), {})
        channel = channel_of.get(entry.contrast)
        if channel is None or channel in own:
            why = f"a second {entry.contrast}" if channel else f"{entry.contrast or 'no contrast'}"
            reason = f"{why}, and the model's channels are {', '.join(channels)}"
            others.append(SetAside(printable(entry.path), reason, "nothing, if that is so"))
        else:
            own[channel] = entry
    if not any(sessions.values()):
        there = sorted({entry.contrast for entry in entries if entry.contrast})
        raise DataError(
            f"no scan of {', '.join(channels)} there, but of {', '.join(there) or 'no named contrast'}",
            where=source,
            mend="name files by contrast as BIDS does (sub-01_T1w.nii.gz), or give a table with a column contrast",
        )
    in_order = [{name: own[name] for name in channels if name in own} for own in sessions.values()]
    return [own for own in in_order if own], others


def shown(
    scans: Mapping[str, ScanEntry], contrasts: Sequence[str], channels: Sequence[str]
) -> list[ScanEntry]:
    """What an encoder is shown of a subject's scans: these contrasts one by one, or all at once as its channels."""
    some = {name: scans[name] for name in contrasts if name in scans}
    return [session_entry(some, channels)] if channels else list(some.values())


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
