"""What preparing a whole source would take, from a few of its scans: core hours and bytes."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import Preprocessing
from mdae.data.store import Store, StoredScan
from mdae.data.workers import prepare_one
from mdae.errors import DataError
from mdae.progress import Progress
from mdae.seeding import numpy_generator
from mdae.text import counted


@dataclass(frozen=True)
class Plan:
    """What some scans took on one core, and what all would.

    Attributes:
        num_scans: of the source.
        seconds: of each scan that was tried.
        num_bytes: of each volume that came of it.
        set_aside: how many were tried and not taken.
    """

    num_scans: int
    seconds: list[float]
    num_bytes: list[int]
    set_aside: int

    @property
    def core_hours(self) -> float:
        """Of the whole source."""
        return statistics.mean(self.seconds) * self.num_scans / 3600

    def lines(self) -> Iterator[str]:
        """The same for people, with 95 % intervals of the means."""
        megabytes = [size / 1e6 for size in self.num_bytes]
        yield (
            f"measured on {counted(len(self.seconds), 'scan')}, one core ({self.set_aside} set aside): "
            f"{_mean(self.seconds)} s and {_mean(megabytes)} MB a scan"
        )
        gigabytes = sum(megabytes) / len(self.seconds) * self.num_scans / 1e3
        scans = counted(self.num_scans, "scan")
        yield f"all {scans} would take {self.core_hours:.2f} core hours and {gigabytes:.1f} GB"


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {1.96 * statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def measure(entries: Sequence[ScanEntry], contract: Preprocessing, number: int, *, seed: int = 0) -> Plan:
    """Prepare some scans, drawn at random, into a folder that is thrown away.

    Raises:
        DataError: none of them can be taken.
    """
    order = numpy_generator(seed, "plan").permutation(len(entries))[:number]
    seconds, sizes, aside = [], [], 0
    with tempfile.TemporaryDirectory(prefix="mdae-plan-") as name, threadpool_limits(1):
        store = Store.create(Path(name) / "store", contract)
        with Progress("measuring", len(order)) as progress:
            for index in order:
                started = time.perf_counter()
                outcome = prepare_one(entries[index], store)
                seconds.append(time.perf_counter() - started)
                if isinstance(outcome, StoredScan):
                    sizes.append(store.volume_path(outcome.scan_id).stat().st_size)
                else:
                    aside += 1
                progress.advance(f"{aside} set aside")
    if not sizes:
        raise DataError(
            f"none of {aside} scans that were tried can be prepared", mend="look at --dry-run's list"
        )
    return Plan(len(entries), seconds, sizes, aside)
