"""A leaderboard's figures: differences from the baseline, figures by task with their intervals, and ROC curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from mdae.evaluation.results.paired import Difference, sign_of
from mdae.report.leaderboard.comparison import Entry, Leaderboard, mark

BETTER, WORSE, UNDECIDED, GRID = "#0b6e8f", "#c2410c", "#8a97a3", "#e5eaef"
COLUMNS = 3  # panels side by side: more are too small to read on a page
LABELS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "concordance": "C-index",
    "dice": "Dice",
    "nsd": "NSD",
    "mae": "MAE",
    "r2": "R²",
}


def metric_label(metric: str) -> str:
    """A figure's name for people."""
    return LABELS.get(metric, metric.replace("_", " "))


def shown_name(leaderboard: Leaderboard, encoder: str) -> str:
    """An encoder's name with what it is, if it is no ordinary one."""
    seen = any(cell.exposure.contaminated for cell in leaderboard.cells if cell.encoder == encoder)
    marks = [
        mark(encoder),
        "baseline" if encoder == leaderboard.baseline else "",
        "has seen some of it" if seen else "",
    ]
    words = ", ".join(word for word in marks if word)
    return f"{encoder} ({words})" if words else encoder


def colours(leaderboard: Leaderboard) -> dict[str, object]:
    """One colour an encoder, the same in every figure; greys for the trivial and the untrained."""
    names = sorted(dict.fromkeys(cell.encoder for cell in leaderboard.cells))
    shades = color_sequences["tab10" if len(names) <= 10 else "tab20"]
    palette = [shade for shade in shades if len(set(shade)) > 1]  # their grey is for those below
    ordinary = [name for name in names if not mark(name)]
    others = [name for name in names if mark(name)]
    greys = [str(shade) for shade in np.linspace(0.25, 0.65, len(others))]
    chosen: dict[str, object] = {name: palette[i % len(palette)] for i, name in enumerate(ordinary)}
    return chosen | dict(zip(others, greys, strict=True))


def means_figure(leaderboard: Leaderboard, protocol: str) -> Figure:
    """Mean differences from the baseline: a panel a group, a row an encoder."""
    groups = leaderboard.groups(protocol)
    encoders = [name for name in leaderboard.encoders(protocol) if name != leaderboard.baseline]
    units = {mean.metric for mean in leaderboard.means if mean.protocol == protocol}
    figure, panels = _panels(len(groups), rows=len(encoders), width=3.3, share=len(units) == 1)
    for axis, group in zip(panels, groups, strict=True):
        found = [leaderboard.mean(protocol, group, encoder) for encoder in encoders]
        metric = next(m.metric for m in leaderboard.means if (m.protocol, m.group) == (protocol, group))
        drawn = [None if mean is None else (mean.difference, mean.p_holm) for mean in found]
        _forest(axis, drawn, [shown_name(leaderboard, encoder) for encoder in encoders], metric)
        axis.set_title(group, fontsize=10)
    return _finished(figure, panels)


def cells_figure(leaderboard: Leaderboard, protocol: str, metric: str) -> Figure:
    """Differences of one figure from the baseline's, cell by cell: a panel an encoder, a row a task and contrast."""
    encoders = [name for name in leaderboard.encoders(protocol) if name != leaderboard.baseline]
    entries = [e for e in leaderboard.headlines() if (e.cell.protocol, e.metric) == (protocol, metric)]
    places = list(dict.fromkeys((entry.cell.task.name, entry.cell.contrast) for entry in entries))
    figure, panels = _panels(len(encoders), rows=len(places), width=2.6)
    for axis, encoder in zip(panels, encoders, strict=True):
        found = [leaderboard.headline(protocol, *place, encoder) for place in places]
        drawn = [None if entry is None else (entry.difference, entry.p_holm) for entry in found]
        _forest(axis, drawn, [f"{task} · {contrast}" for task, contrast in places], metric)
        axis.set_title(shown_name(leaderboard, encoder), fontsize=10)
    return _finished(figure, panels)


def _forest(
    axis: Axes,
    rows: Sequence[tuple[Difference | None, float | None] | None],
    names: Sequence[str],
    metric: str,
) -> None:
    """Differences with intervals; filled where Holm's p is below 0.05, coloured by which is better."""
    sign = sign_of(metric)
    for place, row in enumerate(rows):
        difference, p = row or (None, None)
        if difference is None:
            axis.text(0.97, place, "–", color=UNDECIDED, va="center", transform=axis.get_yaxis_transform())
            continue
        estimate = difference.estimate
        decided = p is not None and p < 0.05
        colour = (BETTER if sign * estimate.value > 0 else WORSE) if decided else UNDECIDED
        axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=1.8)
        axis.plot(
            estimate.value, place, "o", color=colour, markersize=5, markerfacecolor=colour if decided else "w"
        )
    axis.axvline(0, color="#1c2733", linewidth=0.9)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    worse = ", lower is better" if sign < 0 else ""
    axis.set_xlabel(f"{metric_label(metric)} less the baseline's{worse}", fontsize=8)
    _dress(axis)


def bars_figure(leaderboard: Leaderboard, protocol: str, task: str) -> Figure:
    """A task's figure of every encoder with its interval: a panel a contrast."""
    encoders, colour = leaderboard.encoders(protocol), colours(leaderboard)
    contrasts = _contrasts(leaderboard, protocol, task)
    figure, panels = _panels(len(contrasts), rows=len(encoders), width=2.2)
    names = [shown_name(leaderboard, encoder) for encoder in encoders]
    for axis, contrast in zip(panels, contrasts, strict=True):
        entries = [leaderboard.headline(protocol, task, contrast, encoder) for encoder in encoders]
        for place, (encoder, entry) in enumerate(zip(encoders, entries, strict=True)):
            if entry is None:
                axis.text(0.02, place, "no figure", fontsize=7, color=UNDECIDED, va="center")
                continue
            value, low, high = entry.estimate.value, entry.estimate.low, entry.estimate.high
            axis.barh(place, value, color=colour[encoder], alpha=0.35, height=0.62)
            axis.plot([low, high], [place, place], color=colour[encoder], linewidth=1.8)
            axis.plot(value, place, "o", color=colour[encoder], markersize=4.5)
        _scale_of_bars(axis, [entry for entry in entries if entry is not None])
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(contrast, fontsize=10)
        _dress(axis)
    return _finished(figure, panels)


def _scale_of_bars(axis: Axes, entries: Sequence[Entry]) -> None:
    metric = next((entry.metric for entry in entries), "")
    if metric in ("auroc", "balanced_accuracy", "concordance"):
        axis.axvline(0.5, color="#1c2733", linewidth=0.9, linestyle=":")
    if metric not in ("mae", "r2", "pearson_r"):
        axis.set_xlim(0, 1)
    axis.set_xlabel(metric_label(metric), fontsize=8)


def roc_figure(leaderboard: Leaderboard, protocol: str, task: str) -> Figure:
    """ROC curves of every encoder: a panel a contrast."""
    encoders, colour = leaderboard.encoders(protocol), colours(leaderboard)

    def draw(axis: Axes, contrast: str) -> None:
        for encoder in encoders:
            entry = leaderboard.headline(protocol, task, contrast, encoder)
            if entry is None:
                continue
            false, true, _ = roc_curve(entry.cell.labels, entry.cell.predictions)
            style = "--" if mark(encoder) else "-"
            axis.plot(false, true, color=colour[encoder], linewidth=1.5, linestyle=style, label=encoder)
        axis.set_aspect("equal")

    names = ("false positive rate", "true positive rate")
    return squares_figure(_contrasts(leaderboard, protocol, task), draw, names, encoders)


def squares_figure(
    contrasts: Sequence[str],
    draw: Callable[[Axes, str], None],
    names: tuple[str, str],
    encoders: Sequence[str],
) -> Figure:
    """A panel a contrast, with a dotted diagonal and one legend.

    Args:
        contrasts: of the panels.
        draw: what else stands in a contrast's.
        names: of both axes.
        encoders: in the order of the legend.
    """
    columns, lines = min(COLUMNS, len(contrasts)), math.ceil(len(contrasts) / COLUMNS)
    figure = Figure(figsize=(2.35 * columns + 2.0, 2.6 * lines + 0.2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, contrast in zip(grid, contrasts, strict=False):
        axis.plot([0, 1], [0, 1], color="#1c2733", linewidth=0.9, linestyle=":")
        draw(axis, contrast)
        axis.set_title(contrast, fontsize=10)
        axis.set_xlabel(names[0], fontsize=8)
        if axis is grid[0]:
            axis.set_ylabel(names[1], fontsize=8)
        _dress(axis)
    for axis in grid[len(contrasts) :]:
        axis.set_axis_off()
    _figure_legend(figure, grid, encoders)
    return figure


def _contrasts(leaderboard: Leaderboard, protocol: str, task: str) -> list[str]:
    cells = [cell for cell in leaderboard.cells if (cell.protocol, cell.task.name) == (protocol, task)]
    return list(dict.fromkeys(cell.contrast for cell in cells if not cell.refused))


def _panels(number: int, *, rows: int, width: float, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Panels in lines, that share their rows, and the scale of x where they show the same figure."""
    columns, lines = min(COLUMNS, number), math.ceil(number / COLUMNS)
    height = 0.25 * rows + 0.85
    figure = Figure(figsize=(width * columns + 1.8, height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=share).ravel()
    for axis in grid[number:]:
        axis.set_axis_off()
    return figure, list(grid[:number])


def _figure_legend(figure: Figure, grid: Iterable[Axes], encoders: Sequence[str]) -> None:
    """One for all panels, in the order of the encoders."""
    lines = {line.get_label(): line for axis in grid for line in axis.get_lines()}
    shown = {name: lines[name] for name in encoders if name in lines}
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False, fontsize=8)


def _dress(axis: Axes) -> None:
    """Without what tells nothing."""
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(UNDECIDED)
    axis.tick_params(axis="x", labelsize=8, color=UNDECIDED, labelbottom=True)
    axis.tick_params(axis="y", labelsize=8, length=0)
    axis.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def _finished(figure: Figure, panels: Sequence[Axes]) -> Figure:
    """Names of rows at the first panel of each line alone."""
    for index, axis in enumerate(panels):
        axis.tick_params(labelleft=index % COLUMNS == 0)
    return figure
