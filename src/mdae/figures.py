"""Pictures of volumes, without a screen and without global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mdae.files import atomic_write

GRID = "#e5eaef"
Curve = tuple[str, Any, str, Mapping[int, tuple[float, float, float]]]  # as `curve_panel` draws it


def middle_slices(volume: np.ndarray) -> list[np.ndarray]:
    """The sagittal, coronal and axial middle slice of a RAS volume (D, H, W), each turned upright."""
    x, y, z = (side // 2 for side in volume.shape)
    return [np.rot90(volume[x]), np.rot90(volume[:, y]), np.rot90(volume[:, :, z])]


def volume_grid(
    rows: Sequence[Mapping[str, np.ndarray]], *, limits: tuple[float, float] | None = None
) -> Figure:
    """One row a sample, one column a named volume (D, H, W), its three middle slices side by side.

    Args:
        rows: for each sample its volumes by title.
        limits: the intensities shown as black and white; by default the 1st and 99.5th percentile of each row's
            first volume.
    """
    titles = list(rows[0])
    figure = Figure(figsize=(4.2 * len(titles), 1.6 * len(rows) + 0.3), facecolor="black")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row_axes, row in zip(axes, rows, strict=True):
        low, high = limits or np.percentile(next(iter(row.values())), [1, 99.5])
        for axis, title in zip(row_axes, titles, strict=True):
            axis.imshow(side_by_side(middle_slices(row[title])), cmap="gray", vmin=low, vmax=high)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color="white", fontsize=9)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=1 - 0.28 / figure.get_figheight())
    figure.subplots_adjust(wspace=0.02, hspace=0.02)
    return figure


def side_by_side(slices: Sequence[np.ndarray]) -> np.ndarray:
    """Slices of unequal height beside each other on their lowest value."""
    height = max(image.shape[0] for image in slices)
    low = min(float(image.min()) for image in slices)
    padded = [np.pad(image, ((0, height - image.shape[0]), (0, 2)), constant_values=low) for image in slices]
    return np.concatenate(padded, axis=1)


def curve_panel(axis: Axes, lines: Sequence[Curve], title: str) -> None:
    """A figure against the number of labelled subjects, with bands.

    Args:
        axis: to draw on.
        lines: each a name, a colour, a style, and at every number of subjects the value and both ends of its interval.
        title: of the panel.
    """
    for name, colour, style, points in lines:
        sizes = list(points)
        values, lows, highs = zip(*points.values(), strict=True)
        axis.plot(sizes, values, style, color=colour, marker="o", markersize=3.5, label=name)
        axis.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
    sizes = sorted({size for *_, points in lines for size in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("labelled subjects", fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.grid(color=GRID, linewidth=0.8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def to_png(figure: Figure, *, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def to_pixels(figure: Figure) -> np.ndarray:
    """A figure as (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_png(figure))
