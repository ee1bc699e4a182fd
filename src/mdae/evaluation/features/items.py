"""What there is to embed: scans of files, folders and stores, each with its own name though sources share some."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.folder import Choice, common_folder
from mdae.data.formats import is_scan
from mdae.data.names import INSIDE, plain_name
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.data.set_aside import SetAside
from mdae.data.sources import Listing, list_files, list_source
from mdae.data.stack import JOINT, Stack, read, stacks
from mdae.data.store import Store, StoredScan
from mdae.errors import DataError
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.extractors import Extractor
from mdae.evaluation.features.histogram import Histogram
from mdae.evaluation.features.session import sessions_of
from mdae.text import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A scan to embed: whose it is, and how to get its volume."""

    scan: str
    subject: str
    session: str
    contrast: str
    path: str
    load: Callable[[], Loaded]


class Loaded(NamedTuple):
    """A prepared volume (D, H, W), its background, the hash of its content, and what is to be told of it.

    For a model of several contrasts it is (C, D, H, W), with a background and a hash of each. Of a raw scan, all that
    is known of its preparation stands beside.
    """

    volume: np.ndarray
    background: float | tuple[float, ...]
    content: str
    notes: tuple[str, ...]
    prepared: PreparedScan | None = None


@dataclass(frozen=True)
class Gathered:
    """The scans to embed, what was left out while listing, and how their subjects were read."""

    items: list[Item]
    left_out: list[SetAside]
    readings: list[str] = field(default_factory=list)


def gather(
    sources: Sequence[Path],
    encoder: Encoder | Extractor,
    *,
    keep_labels: bool = False,
    subject_from: str = "auto",
) -> Gathered:
    """The scans of files, folders and stores.

    Files are read together, so that a subject is one in all of them. Folders that share subjects are of other people
    and stay apart (`siteA/01`), unless their names are those of contrasts; that is told. A scan counts once.

    Raises:
        DataError: a source that holds none.
    """
    contract = encoder.contract if isinstance(encoder, Encoder | Histogram) else Preprocessing()
    choice = Choice(keep_labels=keep_labels, subject_from=subject_from, min_slices=contract.min_slices)
    files = [source for source in sources if source.is_file() and is_scan(source)]
    listings: dict[Path, Listing] = {}
    groups: dict[Path, list[Item]] = {}
    if len(files) > 1:
        listings[common_folder(files)] = list_files(files, choice)
    for source in sources:
        if (source / "store.json").exists():
            groups[source] = _stored(source, encoder)
        elif source not in files or len(files) == 1:
            listings[source] = list_source(
                source, keep_labels=keep_labels, subject_from=subject_from, min_slices=choice.min_slices
            )
    apart: list[SetAside] = []
    for source, found in listings.items():
        groups[source], others = _raw_items(found.entries, encoder, source)
        apart += others
    items, twice = _once(_apart(groups))
    return Gathered(
        items,
        [*(row for found in listings.values() for row in found.left_out), *apart, *twice],
        [found.reading.line() for found in listings.values()],
    )


def list_items(source: Path, encoder: Encoder) -> list[Item]:
    """The scans of a file, a folder or a prepared store."""
    return gather((source,), encoder).items


def _stored(path: Path, encoder: Encoder | Extractor) -> list[Item]:
    """The scans of a store."""
    store = Store.open(path)
    if not isinstance(encoder, Encoder):
        raise DataError(
            f"prepared for mdae's own models, not for {encoder.name}",
            where=path,
            mend="give the raw scans instead",
        )
    if store.contract != encoder.contract:
        raise DataError(
            f"prepared as {store.contract}; the model wants {encoder.contract}",
            where=path,
            mend="give the raw scans instead",
        )

    def loaded(scan: StoredScan | Stack) -> Loaded:
        volume = read(store, scan).astype(np.float32)
        notes = list(scan.notes)
        own = scan.scans if isinstance(scan, Stack) else (scan,)
        for data, each in zip(volume, own, strict=True):
            if each is not None and not each.link:  # volumes of nnssl have no record
                where = store.volume_path(each.scan_id)
                notes += encoder.warnings(data, store.record(each), where)
        data = volume if encoder.channels else volume[0]
        return Loaded(data, scan.background, scan.content, tuple(dict.fromkeys(notes)))

    listed: Sequence[StoredScan | Stack] = (
        stacks(store, encoder.channels) if encoder.channels else store.scans
    )
    return [
        Item(s.scan_id, s.subject, s.session, s.contrast, s.source, lambda s=s: loaded(s))  # type: ignore[misc]
        for s in listed
    ]


def _raw_items(
    entries: Sequence[ScanEntry], encoder: Encoder | Extractor, source: Path
) -> tuple[list[Item], list[SetAside]]:
    """Raw scans one by one, or session by session for a model of several contrasts; and what is none of these.

    Raises:
        DataError: no scan of a contrast that the model takes.
    """
    if not (isinstance(encoder, Encoder) and encoder.channels):
        return [_raw(entry, encoder) for entry in entries], []
    sessions, others = sessions_of(entries, encoder.channels, source)
    return [_session(own, encoder) for own in sessions], others


def _session(scans: dict[str, ScanEntry], encoder: Encoder) -> Item:
    """The contrasts of a session, prepared when they are wanted."""

    def load() -> Loaded:
        session = encoder.prepare_session(scans)
        record = session.record
        return Loaded(session.data, session.background, record.content, record.notes)

    first = next(iter(scans.values()))
    contrast, path = JOINT.join(encoder.channels), printable(first.path)
    return Item(first.scan_id, first.subject, first.session, contrast, path, load)


def _raw(entry: ScanEntry, encoder: Encoder | Extractor) -> Item:
    """A scan that is prepared when it is wanted."""

    def load() -> Loaded:
        prepared = encoder.prepare(entry)
        record = prepared.record
        return Loaded(prepared.data, record.background, record.content, record.notes, prepared)

    path = printable(entry.path)
    return Item(entry.scan_id, entry.subject, entry.session, entry.contrast, path, load)


def _apart(groups: dict[Path, list[Item]]) -> list[Item]:
    """The items of all sources; where sources share subjects, they are named after them."""
    owners = Counter(name for items in groups.values() for name in {item.subject for item in items})
    shared = sorted(name for name, number in owners.items() if number > 1)
    if not shared:
        return [item for items in groups.values() for item in items]
    root = Path(os.path.commonpath([source.absolute() for source in groups]))
    places = {source: source.absolute().relative_to(root).as_posix() for source in groups}
    names = {source: _name(place) for source, place in places.items()}
    if len(set(names.values())) == 1:  # contrasts or visits of the same people
        names = dict.fromkeys(names, "")
    else:
        logger.warning(
            "%d subjects are in several sources, e.g. %s: taken for other people and kept apart (%s); if they are "
            "the same, give the folder above instead",
            *(len(shared), shared[0], ", ".join(_within(name, shared[0]) for name in sorted(names.values()))),
        )
    return [
        replace(
            item,
            scan="__".join([*places[source].split("/"), item.scan]),
            subject=_within(names[source], item.subject),
        )
        for source, items in groups.items()
        for item in items
    ]


def _within(name: str, subject: str) -> str:
    return f"{name}/{subject}" if name else subject


def _name(place: str) -> str:
    """A source's path without contrasts and visits; "" if it says no more."""
    parts = (plain_name(part).identity for part in place.split("/") if not INSIDE.fullmatch(part))
    return "/".join(part for part in parts if part)


def _once(items: list[Item]) -> tuple[list[Item], list[SetAside]]:
    """Each file once, though it was given twice."""
    found: dict[str, Item] = {}
    twice = []
    for item in items:
        if item.path in found:
            twice.append(SetAside(item.path, "given twice", "nothing, it counts once", num_files="0"))
        found.setdefault(item.path, item)
    return list(found.values()), twice
