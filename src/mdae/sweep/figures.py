"""The picture of a sweep over two numbers: a landscape with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdae.evaluation.results.paired import sign_of
from mdae.report.figures import COLOURS
from mdae.sweep.summary import Row


def landscape_figure(
    rows: Sequence[Row], variants: Mapping[str, Mapping[str, Any]], axes: Sequence[str]
) -> Figure:
    """Means over a plane as contours with each cell's figure, beside them how uncertain they are.

    Args:
        rows: of one place.
        variants: the numbers of each, by name.
        axes: the names of the two numbers, first that of the horizontal axis.
    """
    places = np.array([[float(variants[row.variant][name]) for name in axes] for row in rows])
    xs, ys = np.unique(places[:, 0]), np.unique(places[:, 1])
    mean, half = np.full((2, len(ys), len(xs)), np.nan)
    sign = sign_of(rows[0].metric)
    best = max(sign * row.estimate.value for row in rows)
    alike = np.zeros((len(ys), len(xs)), bool)
    for row, (x, y) in zip(rows, places, strict=True):
        cell = np.searchsorted(ys, y), np.searchsorted(xs, x)
        mean[cell] = row.estimate.value
        half[cell] = (row.estimate.high - row.estimate.low) / 2
        alike[cell] = max(sign * row.estimate.low, sign * row.estimate.high) >= best
    figure = Figure(figsize=(11, 0.8 * len(ys) + 2.2))
    left, right = figure.subplots(1, 2)
    for axis, values, title in ((left, mean, "mean"), (right, half, "half the 95 % interval's width")):
        shown = axis.imshow(values, origin="lower", aspect="auto", cmap="cividis")
        if (
            len(xs) > 1
            and len(ys) > 1
            and np.ptp(values[np.isfinite(values)]) > 0
            and not np.isnan(values).any()
        ):
            axis.contour(values, colors="white", linewidths=0.7, alpha=0.7)
        for i, j in np.argwhere(np.isfinite(values)):
            axis.text(
                j, i, f"{values[i, j]:.3f}", ha="center", va="center", fontsize=8, color=_ink(values, i, j)
            )
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axis.set_xlabel(axes[0])
        axis.set_ylabel(axes[1])
        axis.set_title(f"{rows[0].metric.replace('_', ' ')}: {title}", fontsize=10)
        figure.colorbar(shown, ax=axis)
    for i, j in np.argwhere(alike):
        left.add_patch(_outline(j, i))
    figure.tight_layout()
    return figure


def _outline(j: int, i: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=COLOURS["masked"], linewidth=1.6)


def _ink(values: np.ndarray, i: int, j: int) -> str:
    """Black on bright cells, white on dark ones."""
    low, high = np.nanmin(values), np.nanmax(values)
    return "black" if values[i, j] > (low + high) / 2 else "white"
