"""A contact sheet: what is in a store at a glance, for people who would rather look."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mdae.data.store import Store, StoredScan
from mdae.figures import middle_slices, save_png, side_by_side

COLUMNS, ROWS = 4, 8
SHOWN = (-2.5, 3.0)  # z-scores that are black and white


def write_contact_sheet(store: Store, number: int) -> list[Path]:
    """Picture `number` scans, evenly spread over the store's names, three middle slices each; the pages' paths."""
    places = np.unique(
        np.linspace(0, len(store.scans) - 1, min(number, len(store.scans))).round().astype(int)
    )
    scans = [store.scans[place] for place in places]
    pages = []
    for first in range(0, len(scans), COLUMNS * ROWS):
        path = store.path / "contact_sheet" / f"page-{1 + first // (COLUMNS * ROWS):03d}.png"
        save_png(path, _page(store, scans[first : first + COLUMNS * ROWS]))
        pages.append(path)
    return pages


def _page(store: Store, scans: list[StoredScan]) -> Figure:
    rows = math.ceil(len(scans) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 1.75 * rows), facecolor="black")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, scan in zip(axes, scans, strict=False):
        axis.imshow(side_by_side(middle_slices(store.read(scan))), cmap="gray", vmin=SHOWN[0], vmax=SHOWN[1])
        axis.set_title(_title(scan), color="white", fontsize=6)
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.01, top=1 - 0.15 / rows, wspace=0.02, hspace=0.14
    )
    return figure


def _title(scan: StoredScan) -> str:
    name = scan.scan_id if len(scan.scan_id) <= 48 else f"{scan.scan_id[:30]}...{scan.scan_id[-15:]}"
    return f"{name}  {' x '.join(map(str, scan.shape))}"
