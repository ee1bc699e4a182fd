"""One scan after the other into a store, on this machine: in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache

from threadpoolctl import threadpool_limits

from mdae.data.catalogue import ScanEntry
from mdae.data.dicom import read_series
from mdae.data.grid import Grid
from mdae.data.io import read_mask, read_scan
from mdae.data.label_maps import MEND as KEEP_LABELS
from mdae.data.label_maps import label_map_by_voxels
from mdae.data.preprocess import PreparedScan, Preprocessing, prepare_scan
from mdae.data.set_aside import SetAside
from mdae.data.store import Store, StoredScan
from mdae.data.strip import brain_mask
from mdae.errors import DataError, ScanError
from mdae.notices import add, collected, drain, notice, quiet_readers
from mdae.text import printable

AHEAD = 4  # scans queued for each process


def prepare_entry(entry: ScanEntry, contract: Preprocessing) -> PreparedScan:
    """Read a scan with its masks, strip its skull if wanted, and prepare it.

    One of several that are prepared together is brought to the grid of the first of them that is fit.

    Raises:
        ScanError: an unfit one, or a label map where they are refused.
        DataError: a program that is needed is not installed.
    """
    own = replace(entry, together=())
    first = next((other for other in entry.together if _fit(other, contract)), own)
    if first == own:
        kept = _prepared(own, contract) if entry.together else _read_and_prepared(own, contract)
        prepared = replace(kept, data=kept.data.copy()) if entry.together else kept
    else:
        grid = _prepared(first, contract)
        prepared = _read_and_prepared(own, contract, Grid(grid.record.shape, grid.affine))
    for note in prepared.record.notes:
        notice(note, entry.path)
    return prepared


@lru_cache(maxsize=1)  # of the session that is at hand: its first scan is wanted once for each of the others
def _prepared(entry: ScanEntry, contract: Preprocessing) -> PreparedScan:
    return _read_and_prepared(entry, contract)


def _fit(entry: ScanEntry, contract: Preprocessing) -> bool:
    try:
        _prepared(entry, contract)
    except ScanError:
        return False
    return True


def _read_and_prepared(entry: ScanEntry, contract: Preprocessing, onto: Grid | None = None) -> PreparedScan:
    if entry.slices:
        scan = read_series(entry, series=contract.series, min_slices=contract.min_slices)
    else:
        scan = read_scan(entry.path, series=contract.series, min_slices=contract.min_slices)
    if entry.refuse_labels and (reason := label_map_by_voxels(scan.data)):
        raise ScanError(reason, where=entry.path, mend=KEEP_LABELS)
    anatomy, anonymised = (
        read_mask(path, scan) if path else None for path in (entry.anatomy_mask, entry.anonymisation_mask)
    )
    if contract.strip != "none":
        anatomy = brain_mask(scan, contract.strip)
    return prepare_scan(scan, contract, anatomy=anatomy, anonymised=anonymised, onto=onto)


def num_cores() -> int:
    """How many cores this process may use; a cluster often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcomes(entries: list[ScanEntry], store: Store, workers: int) -> Iterator[StoredScan | SetAside]:
    """Each scan's outcome as it comes; a few scans are queued at a time, so that stopping is quick.

    Args:
        entries: the scans to prepare.
        store: where to.
        workers: processes; 0 for one a core.

    Raises:
        DataError: what concerns all scans: a full disk, or a process that was killed.
    """
    workers = min(workers or num_cores(), len(entries))
    if workers <= 1:
        yield from (prepare_one(entry, store) for unit in _units(entries) for entry in unit)
        return
    empty = Store(store.path, store.contract, [])  # what processes need of it
    waiting = iter(_units(entries))
    with ProcessPoolExecutor(workers, initializer=_start_process) as pool:
        pending: set[Future[Told]] = set()
        try:
            while True:
                while len(pending) < workers * AHEAD and (unit := next(waiting, None)) is not None:
                    pending.add(pool.submit(_outcomes_and_notices, unit, empty))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    found, told = future.result()
                    add(told)
                    yield from found
        except BrokenProcessPool as error:
            raise DataError(
                "a process was killed, most likely for want of memory",
                where=store.path,
                mend="repeat the command with fewer --workers; what is done stays",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


Told = tuple[list[StoredScan | SetAside], list[tuple[str, str]]]


def _units(entries: list[ScanEntry]) -> list[list[ScanEntry]]:
    """Scans that one process takes one after the other: those of a session where they are prepared together."""
    units: dict[str, list[ScanEntry]] = {}
    for entry in entries:
        units.setdefault(entry.together[0].scan_id if entry.together else entry.scan_id, []).append(entry)
    return list(units.values())


def _outcomes_and_notices(entries: list[ScanEntry], store: Store) -> Told:
    """What becomes of scans, and what should be told of them by the process that asked."""
    with collected():
        return [prepare_one(entry, store) for entry in entries], drain()


def _start_process() -> None:
    """One thread a process; and none outlives `prepare`, even if that is killed and cannot tell them."""
    quiet_readers()
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare_one(entry: ScanEntry, store: Store) -> StoredScan | SetAside:
    """Read, prepare and store one scan, or say why not."""
    try:
        if entry.path.suffix == ".b2nd":
            return store.link(entry)
        return store.write(entry, prepare_entry(entry, store.contract))
    except ScanError as error:
        if error.where == printable(entry.path):
            row = SetAside(str(entry.path), error.what, error.mend or "")
            return row if entry.slices else row.stamped()  # a series may gain what was missing
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
