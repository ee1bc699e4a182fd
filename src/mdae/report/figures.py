"""The demo's figures: labels saved, segmentations, corruptions step by step, reconstructions, loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mdae.figures import Curve, curve_panel
from mdae.inference.restore import Reconstruction

COLOURS = {"masked": "#c2410c", "visible": "#0b6e8f"}


def curves_figure(panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """Dice against the number of labelled subjects: a panel a title."""
    figure = Figure(figsize=(2.7 * len(panels) + 0.6, 3.3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        curve_panel(axis, lines, title)
    axes[0].set_ylabel("Dice of test subjects", fontsize=8)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def segmentations_figure(
    rows: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]], names: Sequence[str]
) -> Figure:
    """An axial slice of a scan, and segmentations of it in colours beside.

    Args:
        rows: by contrast the scan (D, H, W) and by title its segmentations, of the labels' numbers.
        names: of the numbers from 0, the background.
    """
    columns = 1 + max(len(maps) for _, maps in rows.values())
    figure = Figure(figsize=(2.3 * columns, 2.7 * len(rows) + 0.4), layout="constrained")
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axes, (contrast, (scan, maps)) in zip(
        figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True
    ):
        low, high = np.percentile(scan, [1, 99.5])
        place = _fullest(next(iter(maps.values())), len(names))
        for axis, (title, labels) in zip(axes, {contrast: np.zeros_like(scan), **maps}.items(), strict=True):
            axis.imshow(np.rot90(scan[:, :, place]), cmap="gray", vmin=low, vmax=high)
            flat = np.rot90(labels[:, :, place]).astype(int)
            painted = np.array(
                [(0, 0, 0, 0), *((*colours[(n - 1) % 10], 0.75) for n in range(1, len(names)))]
            )
            axis.imshow(painted[flat], interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    patches = [Patch(color=colours[(n - 1) % 10], label=name) for n, name in enumerate(names) if n]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _fullest(labels: np.ndarray, number: int) -> int:
    """The axial slice that shows most of every label: of the one that it shows the smallest share of."""
    counts = np.stack([(labels == label).sum(axis=(0, 1)) for label in range(1, number)])
    return int((counts / counts.max(axis=1, keepdims=True).clip(1)).min(axis=0).argmax())


def axial(volume: np.ndarray) -> np.ndarray:
    """The slice a little above the middle, upright: the ventricles and the white matter around them."""
    return np.rot90(volume[:, :, int(0.55 * volume.shape[2])])


def steps_figure(both: Reconstruction, only_mask: Reconstruction, only_noise: Reconstruction) -> Figure:
    """Clean, masked, noised, both, and what the network makes of both, on one slice."""
    images = [
        ("clean", both.clean),
        ("blocks masked", only_mask.corrupted),
        ("noise added", only_noise.corrupted),
        ("both: the input", both.corrupted),
        ("restored", both.restored),
        ("restored where masked", both.inpainted),
    ]
    figure = Figure(figsize=(13, 2.9))
    low, high = np.percentile(both.clean, [1, 99.5])
    for axis, (title, volume) in zip(figure.subplots(1, len(images)), images, strict=True):
        axis.imshow(axial(volume), cmap="gray", vmin=low, vmax=high)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.tight_layout()
    return figure


def landscape_figure(cells: Mapping[tuple[float, float], Reconstruction]) -> Figure:
    """Inputs and restorations over mask ratio (rows) and time (columns)."""
    ratios = sorted({ratio for ratio, _ in cells})
    times = sorted({t for _, t in cells})
    figure = Figure(figsize=(3.1 * len(times), 1.75 * len(ratios) + 0.5))
    axes = figure.subplots(len(ratios), len(times), squeeze=False)
    for row, ratio in zip(axes, ratios, strict=True):
        for axis, t in zip(row, times, strict=True):
            cell = cells[ratio, t]
            low, high = np.percentile(cell.clean, [1, 99.5])
            pair = np.concatenate([axial(cell.corrupted), axial(cell.restored)], axis=1)
            axis.imshow(pair, cmap="gray", vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(_caption(cell), fontsize=7, labelpad=2)
        row[0].set_ylabel(f"{ratio:.0%} masked", fontsize=9)
    for axis, t in zip(axes[0], times, strict=True):
        axis.set_title(f"t = {t:g}  (σ = {cells[ratios[0], t].sigma:.2g})", fontsize=9)
    figure.tight_layout()
    return figure


def _caption(cell: Reconstruction) -> str:
    errors = cell.errors()
    shown = [(name, errors[f"mse_{name}"]) for name in ("masked", "visible")]
    return "  ".join(f"{name} {value:.2f}" for name, value in shown if value is not None)


def loss_figure(train: pd.DataFrame, validation: pd.DataFrame | None) -> Figure:
    """Both terms over the steps, training as a line, held-out volumes as points."""
    figure = Figure(figsize=(9, 3.2))
    axis = figure.subplots()
    for term, colour in COLOURS.items():
        if term not in train or train[term].isna().all():
            continue
        smooth = train[term].ewm(span=8).mean()
        axis.plot(train["step"], train[term], color=colour, alpha=0.25, linewidth=1)
        axis.plot(train["step"], smooth, color=colour, label=f"{term}, training")
        if validation is not None:
            axis.plot(validation["step"], validation[term], "o", color=colour, label=f"{term}, held out")
    axis.set_xlabel("optimiser step")
    axis.set_ylabel("mean squared error (unweighted)")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, ncols=2)
    figure.tight_layout()
    return figure


def forest_figure(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    label: str,
    line: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Intervals one below the other: name, value, low, high.

    Args:
        label: of the horizontal axis.
        line: where a dotted one stands, chance say.
        limits: of the horizontal axis; as the intervals need, if not given.
    """
    figure = Figure(figsize=(9, 0.42 * len(rows) + 0.9))
    axis = figure.subplots()
    for place, (_, value, low, high) in enumerate(reversed(rows)):
        axis.plot([low, high], [place, place], color=COLOURS["visible"], linewidth=2)
        axis.plot(value, place, "o", color=COLOURS["masked"])
    axis.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    if line is not None:
        axis.axvline(line, color="gray", linewidth=1, linestyle=":")
    if limits is not None:
        axis.set_xlim(*limits)
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
