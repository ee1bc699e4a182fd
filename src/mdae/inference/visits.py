"""What is looked at together: a scan, or a subject's scans of several contrasts in one session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdae.data.catalogue import ScanEntry, unique
from mdae.data.sources import list_source
from mdae.errors import DataError
from mdae.evaluation.features.session import sessions_of


@dataclass(frozen=True)
class Visit:
    """A subject's scans that are looked at together, by contrast; `name` is one of its own."""

    name: str
    subject: str
    session: str
    scans: dict[str, ScanEntry]
    note: str = ""

    @property
    def path(self) -> str:
        """Its files."""
        return "; ".join(str(entry.path) for entry in self.scans.values())

    def columns(self) -> dict[str, str]:
        """Whose it is, for a table."""
        return {"scan": self.name, "subject": self.subject, "session": self.session, "path": self.path}


def find_visits(
    sources: Sequence[Path], contrasts: tuple[str, ...], channels: tuple[str, ...] = ()
) -> tuple[list[Visit], list[dict[str, str]]]:
    """The scans of sources as a model of these contrasts wants them, and what is not taken with the reasons.

    Args:
        sources: files, folders, BIDS trees and manifests.
        contrasts: each of which a visit has to have.
        channels: instead of those: the contrasts that are seen at once, of which a visit may lack some.

    Raises:
        DataError: a source that holds no scan, or no visit as is wanted.
    """
    aside: list[dict[str, str]] = []
    entries: list[ScanEntry] = []
    for source in sources:
        listing = list_source(source)
        aside += [{"path": row.path, "reason": row.reason, "mend": row.mend} for row in listing.left_out]
        entries += listing.entries
    entries = unique(entries, Path.cwd())
    if channels:
        return _sessions(entries, channels, sources[0], aside), aside
    if len(contrasts) > 1:
        return _complete(entries, contrasts, aside), aside
    (wanted,) = contrasts
    own = [entry for entry in entries if entry.contrast in (wanted, "") or not wanted]
    others = [entry for entry in entries if entry not in own]
    if not own:  # no name says that it is of the contrast: the user does
        note = f"its name does not say that it is {wanted}, which was fitted on"
        return [_alone(entry, wanted, note) for entry in others], aside
    aside += [
        {"path": str(e.path), "reason": f"of contrast {e.contrast}; {wanted} was fitted on", "mend": ""}
        for e in others
    ]
    return [_alone(entry, wanted, "") for entry in own], aside


def _alone(entry: ScanEntry, contrast: str, note: str) -> Visit:
    return Visit(entry.scan_id, entry.subject, entry.session, {contrast: entry}, note)


def _sessions(
    entries: Sequence[ScanEntry], channels: tuple[str, ...], source: Path, aside: list[dict[str, str]]
) -> list[Visit]:
    """A visit a session that has any of the channels."""
    sessions, others = sessions_of(entries, channels, source)
    aside += [{"path": row.path, "reason": row.reason, "mend": row.mend} for row in others]
    return [_visit(own) for own in sessions]


def _visit(scans: dict[str, ScanEntry]) -> Visit:
    first = next(iter(scans.values()))
    name = "__".join(part for part in (first.subject, first.session) if part)
    return Visit(name or first.scan_id, first.subject, first.session, scans)


def _complete(
    entries: Sequence[ScanEntry], contrasts: tuple[str, ...], aside: list[dict[str, str]]
) -> list[Visit]:
    """A visit a subject's session that has each contrast once."""
    found: dict[tuple[str, str], dict[str, list[ScanEntry]]] = {}
    for entry in entries:
        if entry.contrast in contrasts:
            found.setdefault((entry.subject, entry.session), {}).setdefault(entry.contrast, []).append(entry)
    visits = []
    for _, own in sorted(found.items()):
        odd = next((name for name in contrasts if len(own.get(name, ())) != 1), "")
        if odd:
            reason = f"{len(own.get(odd, ()))} scans of {odd} in one visit; one is wanted"
            aside.append({"path": str(next(iter(own.values()))[0].path), "reason": reason, "mend": ""})
        else:
            visits.append(_visit({name: own[name][0] for name in contrasts}))
    if not visits:
        reason = f"no visit has a scan of each of {', '.join(contrasts)}"
        raise DataError(reason, where=entries[0].path if entries else None, mend="check the scans' names")
    return visits
