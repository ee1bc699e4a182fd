"""Preparing raw scans at 1 mm, order 3: ours against nnssl's own preprocessing of the same files on the same core.

    python -m benchmarks.prepare SCANS

Both read a raw .nii.gz and write a compressed volume. nnssl runs twice: as it is by default, which takes the nearest
slice across thick ones, and told to use order 3 along every axis, which is what ours does ("peer3"). Then the error of
ours: resampling by matrices against scipy's order-3 spline on the same grid.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from benchmarks import peer_nnssl
from benchmarks.common import in_turn, median_ratio, own_peak_memory_gib, peak_memory_gib, save, show
from mdae.data.catalogue import ScanEntry
from mdae.data.io import read_scan
from mdae.data.preprocess import Preprocessing, prepare_scan, to_ras
from mdae.data.resample import FWHM_PER_SIGMA, resample
from mdae.data.set_aside import SetAside
from mdae.data.sources import discover
from mdae.data.store import Store
from mdae.data.workers import prepare_one


def our_preparation(folder: Path) -> Any:
    """A function that prepares one raw scan into a store."""
    store = Store.create(folder / "store", Preprocessing())

    def prepare(entry: ScanEntry) -> None:
        outcome = prepare_one(entry, store)  # with the look for label maps, as `mdae prepare` does it
        if isinstance(outcome, SetAside):
            raise SystemExit(f"{outcome.path}: {outcome.reason}")

    return prepare


def difference_from_scipy(path: Path) -> float:
    """The largest difference from scipy's order-3 spline, as a share of the result's range."""
    scan = read_scan(path)
    record = prepare_scan(scan, Preprocessing(crop="none")).record
    data, _ = to_ras(scan.data, scan.affine)
    axes = record.axes()
    ours = resample(data, axes, order=3)
    smooth = data.astype(np.float64)
    for axis, place in enumerate(axes):
        if place.scale > 1:  # both smooth before they make voxels wider
            sigma = (place.scale**2 - 1) ** 0.5 / FWHM_PER_SIGMA
            smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=axis, mode="nearest")
    scipys = ndimage.affine_transform(
        smooth,
        [place.scale for place in axes],
        [place.offset for place in axes],
        output_shape=tuple(place.size_out for place in axes),
        order=3,
        mode="nearest",
    )
    return float(np.abs(ours - scipys).max() / np.ptp(scipys))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", type=Path)
    parser.add_argument("--only", choices=["ours", "peer"], help="the first scan by one side, for its memory")
    parser.add_argument("--report-memory", action="store_true")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    entries = discover(options.scans)
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        folder = Path(name)
        if options.only:
            if options.only == "ours":
                our_preparation(folder)(entries[0])
            else:
                peer_nnssl.preprocessing(folder)(entries[0].path)
            print(own_peak_memory_gib())
            return
        ours, peer = our_preparation(folder), peer_nnssl.preprocessing(folder)
        peer3 = peer_nnssl.preprocessing(folder, splines_everywhere=True)
        rows = []
        for entry in entries:
            seconds = in_turn(
                {
                    "ours": lambda e=entry: ours(e),  # type: ignore[misc]
                    "peer": lambda e=entry: peer(e.path),  # type: ignore[misc]
                    "peer3": lambda e=entry: peer3(e.path),  # type: ignore[misc]
                },
                rounds=3 if entry is entries[0] else 1,
                warmup=1 if entry is entries[0] else 0,
            )
            rows.append(
                {
                    "scan": entry.scan_id,
                    "ours_s": min(seconds["ours"]),
                    "peer_s": min(seconds["peer"]),
                    "peer3_s": min(seconds["peer3"]),
                    "peer/ours": median_ratio(seconds["ours"], seconds["peer"]),
                    "peer3/ours": median_ratio(seconds["ours"], seconds["peer3"]),
                    "off_scipy": difference_from_scipy(entry.path),
                }
            )
            show(rows[-1:])
    where = ["-m", "benchmarks.prepare", str(options.scans)]
    summary = {
        "scan": f"all {len(rows)}",
        "ours_s": statistics.mean(row["ours_s"] for row in rows),
        "peer_s": statistics.mean(row["peer_s"] for row in rows),
        "peer3_s": statistics.mean(row["peer3_s"] for row in rows),
        "peer/ours": sum(row["peer_s"] for row in rows) / sum(row["ours_s"] for row in rows),
        "peer3/ours": sum(row["peer3_s"] for row in rows) / sum(row["ours_s"] for row in rows),
        "off_scipy": max(row["off_scipy"] for row in rows),
        "ours_gib": peak_memory_gib([*where, "--only", "ours"]),
        "peer_gib": peak_memory_gib([*where, "--only", "peer"]),
    }
    show([summary])
    save(f"prepare-{options.scans.resolve().name}", [*rows, summary])


if __name__ == "__main__":
    main()
