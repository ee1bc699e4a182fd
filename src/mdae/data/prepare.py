"""`mdae prepare`: a pile of scans into a store, resumable; the unfit ones are set aside with reasons."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from threadpoolctl import threadpool_limits
from tyro.conf import Positional, arg

from mdae.data.catalogue import ScanEntry
from mdae.data.io import read_mask, read_scan
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.data.set_aside import SetAside, read_set_aside, write_set_aside
from mdae.data.sources import Listing, list_source
from mdae.data.store import Store, StoredScan
from mdae.errors import DataError, ScanError
from mdae.progress import Progress

AHEAD = 4  # scans queued for each process


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Prepare raw scans for pre-training: a pile of scans of any kind into a store.

    The same command again takes what is new or changed and redoes nothing else.
    """

    source: Positional[Annotated[Path, arg(metavar="SOURCE")]]
    """Folder of scans (.nii, .nii.gz, .mgz, .nrrd), BIDS tree, OpenMind as downloaded, nnssl's pretrain_data.json, or a
    manifest (.csv, .tsv, .parquet) with a column `path`."""
    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """Folder of the store to make or to add to."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """How scans are prepared."""
    contrasts: tuple[str, ...] = ()
    """Take these contrasts alone."""
    max_quality_score: float | None = None
    """Leave out scans with a higher quality score (OpenMind's image_quality_score: lower is better)."""
    workers: int = 0
    """Processes; 0 for one a core that this process may use."""
    dry_run: bool = False
    """Only list what would be taken, and why not the rest."""
    retry: bool = False
    """Look again at scans that were set aside, though their files have not changed."""
    contact_sheet: int = 0
    """Picture so many of the store's scans, evenly spread, in `contact_sheet/`; 0 for none."""


@dataclass(frozen=True)
class PrepareSummary:
    """What `prepare` did.

    Attributes:
        found, prepared, unchanged: numbers of scans.
        set_aside: those that could not be taken.
        seconds: wall time.
        listing: what the source holds.
    """

    found: int
    prepared: int
    unchanged: int
    set_aside: list[SetAside]
    seconds: float
    listing: Listing


def prepare(config: PrepareConfig) -> PrepareSummary:
    """Bring a store up to date with a source.

    Raises:
        DataError: no scans, a store of another contract, a full disk, or a process that was killed.
        KeyboardInterrupt: after the store was left in order.
    """
    started = time.monotonic()
    listing = list_source(
        config.source.absolute(), contrasts=config.contrasts, max_quality_score=config.max_quality_score
    )
    entries = listing.entries
    if config.dry_run:
        return PrepareSummary(len(entries), 0, 0, [], time.monotonic() - started, listing)
    store = Store.create(config.store, config.preprocessing)
    known = {scan.scan_id: scan for scan in store.scans}
    changed = [entry for entry in entries if not _unchanged(entry, known.get(entry.scan_id))]
    remembered = {} if config.retry else read_set_aside(config.store)
    aside = [remembered[str(entry.path)] for entry in changed if str(entry.path) in remembered]
    aside += [clash for entry in changed if (clash := _clash(entry, known.get(entry.scan_id)))]
    out = {row.path for row in aside}
    wanted = [entry for entry in changed if str(entry.path) not in out]
    stored: list[StoredScan] = []
    store.forget({entry.scan_id for entry in wanted})
    try:
        with Progress("preparing", len(wanted)) as progress:
            for outcome in _outcomes(wanted, store, config.workers or _num_cores()):
                (aside if isinstance(outcome, SetAside) else stored).append(outcome)  # type: ignore[arg-type]
                progress.advance(f"{len(aside)} set aside")
    finally:
        store.refresh(stored)
        aside += _drop_duplicates(store)
        store.write_manifest(stored)
        write_set_aside(config.store, aside)
    if config.contact_sheet:
        from mdae.data.contact_sheet import write_contact_sheet  # here: it takes matplotlib

        write_contact_sheet(store, config.contact_sheet)
    seconds = time.monotonic() - started
    return PrepareSummary(len(entries), len(stored), len(entries) - len(changed), aside, seconds, listing)


def _unchanged(entry: ScanEntry, stored: StoredScan | None) -> bool:
    """Whether the source of a stored scan is as it was."""
    if stored is None:
        return False
    try:
        status = entry.path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (stored.size, stored.modified_ns)


def _clash(entry: ScanEntry, stored: StoredScan | None) -> SetAside | None:
    """Set a scan aside whose name belongs to another file, which is still there; else the two would take turns."""
    try:
        if stored is None or Path(stored.record.source).samefile(entry.path):
            return None
    except OSError:  # the other file has gone: this one takes its place
        return None
    return SetAside(
        str(entry.path),
        f"the store has a scan of this name from {stored.record.source}",
        "rename one, give each source its own store, or prepare the folder above both",
    )


def _drop_duplicates(store: Store) -> list[SetAside]:
    """Take out of a store what has the voxels of another scan; the first by name stays."""
    first: dict[str, StoredScan] = {}
    dropped = []
    for scan in store.scans:
        kept = first.setdefault(scan.record.content, scan)
        if kept is not scan:
            store.volume_path(scan.scan_id).unlink(missing_ok=True)
            reason = f"the same voxels as {kept.record.source}"
            dropped.append(SetAside(scan.record.source, reason, "nothing, if one copy is enough").stamped())
    return dropped


def _num_cores() -> int:
    """How many cores this process may use; a cluster often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcomes(entries: list[ScanEntry], store: Store, workers: int) -> Iterator[StoredScan | SetAside]:
    """Each scan's outcome as it comes; a few scans are queued at a time, so that stopping is quick."""
    workers = min(workers, len(entries))
    if workers <= 1:
        yield from (_prepare_one(entry, store) for entry in entries)
        return
    empty = Store(store.path, store.contract, [])  # what processes need of it
    waiting = iter(entries)
    with ProcessPoolExecutor(workers, initializer=_start_process) as pool:
        pending: set[Future[StoredScan | SetAside]] = set()
        try:
            while True:
                while len(pending) < workers * AHEAD and (entry := next(waiting, None)) is not None:
                    pending.add(pool.submit(_prepare_one, entry, empty))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise DataError(
                "a process was killed, most likely for want of memory",
                where=store.path,
                mend="repeat the command with fewer --workers; what is done stays",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_process() -> None:
    """One thread a process; and none outlives `prepare`, even if that is killed and cannot tell them."""
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_one(entry: ScanEntry, store: Store) -> StoredScan | SetAside:
    """Read, prepare and store one scan, or say why not."""
    try:
        scan = read_scan(entry.path, series=store.contract.series)
        anatomy, anonymised = (
            read_mask(path, scan) if path else None for path in (entry.anatomy_mask, entry.anonymisation_mask)
        )
        return store.write(entry, prepare_scan(scan, store.contract, anatomy=anatomy, anonymised=anonymised))
    except ScanError as error:
        if error.where == str(entry.path):
            return SetAside(str(entry.path), error.what, error.mend or "").stamped()
        return SetAside(
            str(entry.path), str(error), error.mend or ""
        )  # of its mask, say, which may be mended
    except DataError:  # of the store, a full disk say: it concerns all scans
        raise
    except MemoryError:
        return SetAside(
            str(entry.path), "too large for this machine's memory", "crop it or use fewer --workers"
        )
    except Exception as error:  # one odd scan must not end a night's work on the others
        reason = " ".join(f"unforeseen {type(error).__name__}: {error}".split())
        return SetAside(str(entry.path), reason, "report it with the scan's header")
