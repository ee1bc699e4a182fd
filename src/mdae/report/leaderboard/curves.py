"""Figures against the number of labelled subjects: what pre-training saves of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mdae.evaluation.results.reader import Cell
from mdae.evaluation.results.schema import CONTRAST_KEY
from mdae.evaluation.statistics.curve import CurvePoint, curve_difference
from mdae.evaluation.statistics.intervals import SHARE, Estimate
from mdae.evaluation.statistics.scores import SCALES
from mdae.figures import curve_panel
from mdae.report.leaderboard.comparison import Leaderboard, headline_metric, mark
from mdae.report.leaderboard.figures import COLUMNS, colours, metric_label, shown_name

Lines = list[list[str]]


def curved(leaderboard: Leaderboard, protocol: str, task: str) -> list[Cell]:
    """The cells of a task that have a curve, in the order of the leaderboard's encoders."""
    own = [
        cell
        for cell in leaderboard.cells
        if (cell.protocol, cell.task.name) == (protocol, task) and cell.curve
    ]
    order = leaderboard.encoders(protocol)
    return sorted(own, key=lambda cell: (cell.contrast, order.index(cell.encoder)))


def curve_figure(leaderboard: Leaderboard, protocol: str, task: str) -> Figure:
    """The ranking figure against the number of subjects learned from, with 95 % bands: a panel a contrast."""
    cells, colour = curved(leaderboard, protocol, task), colours(leaderboard)
    contrasts = list(dict.fromkeys(cell.contrast for cell in cells))
    columns, lines = min(COLUMNS, len(contrasts)), math.ceil(len(contrasts) / COLUMNS)
    figure = Figure(figsize=(3.6 * columns + 1.8, 3.0 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis in grid[len(contrasts) :]:
        axis.set_axis_off()
    for axis, contrast in zip(grid, contrasts, strict=False):
        drawn = []
        for cell in (cell for cell in cells if cell.contrast == contrast):
            metric = headline_metric(cell, leaderboard.metric)
            known = {point.size: point.scores[metric] for point in cell.curve if metric in point.scores}
            points = {size: (own.value, own.low, own.high) for size, own in known.items()}
            drawn.append((cell.encoder, colour[cell.encoder], "--" if mark(cell.encoder) else "-", points))
            axis.set_ylabel(metric_label(metric), fontsize=8)
        curve_panel(axis, drawn, contrast)
    handles = {line.get_label(): line for axis in grid for line in axis.get_lines()}
    names = [shown_name(leaderboard, str(name)) for name in handles]
    figure.legend(handles.values(), names, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def curve_table(leaderboard: Leaderboard, protocol: str, task: str) -> tuple[list[str], Lines]:
    """A number of labelled subjects and an encoder a row, with the difference from the baseline on the same draws."""
    header = [
        "contrast",
        "labelled subjects",
        "draws",
        "encoder",
        "figure",
        "value [95 %]",
        "difference [95 %]",
    ]
    return header, [
        [
            cell.contrast,
            str(point.size),
            str(len(next(iter(point.values.values())))),
            shown_name(leaderboard, cell.encoder),
            metric_label(metric),
            str(point.scores[metric]),
            "–" if difference is None else str(difference),
        ]
        for cell, point, metric, difference in _rows(leaderboard, protocol, task)
    ]


def curves_frame(leaderboard: Leaderboard) -> pd.DataFrame:
    """Every point of every curve as a row; none without any curve."""
    rows = []
    for protocol in leaderboard.protocols:
        for task in dict.fromkeys(cell.task.name for cell in leaderboard.cells):
            for cell, point, metric, apart in _rows(leaderboard, protocol, task):
                about: dict[str, object] = {"task": task, "protocol": protocol, CONTRAST_KEY: cell.contrast}
                draws = len(next(iter(point.values.values())))
                about |= {"encoder": cell.encoder, "labelled_subjects": point.size, "draws": draws}
                about |= {"metric": metric}
                about |= with_interval("value", point.scores[metric])
                rows.append(about | with_interval("difference", apart))
    return pd.DataFrame(rows)


def with_interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """A figure and its interval as columns of a table: value, low and high, or NAME, NAME_low and NAME_high."""
    before = "" if name == "value" else f"{name}_"
    found = (None, None, None) if estimate is None else astuple(estimate)
    return dict(zip((name, f"{before}low", f"{before}high"), found, strict=True))


def _rows(
    leaderboard: Leaderboard, protocol: str, task: str
) -> Iterator[tuple[Cell, CurvePoint, str, Estimate | None]]:
    """By contrast and number of subjects, then by encoder."""
    cells = curved(leaderboard, protocol, task)
    for contrast in dict.fromkeys(cell.contrast for cell in cells):
        own = [cell for cell in cells if cell.contrast == contrast]
        baseline = next((cell for cell in own if cell.encoder == leaderboard.baseline), None)
        for size in sorted({point.size for cell in own for point in cell.curve}):
            for cell in own:
                metric = headline_metric(cell, leaderboard.metric)
                point = _at(cell, size)
                if point is not None and metric in point.scores:
                    yield cell, point, metric, _difference(cell, baseline, size, metric)


def _at(cell: Cell, size: int) -> CurvePoint | None:
    return next((point for point in cell.curve if point.size == size), None)


def _difference(cell: Cell, baseline: Cell | None, size: int, metric: str) -> Estimate | None:
    """From the baseline on the draws and subjects that both have; None where there are none."""
    if baseline is None or cell is baseline:
        return None
    one, other = _at(cell, size), _at(baseline, size)
    both, first, second = np.intersect1d(cell.subjects, baseline.subjects, return_indices=True)
    if one is None or other is None or metric not in other.values or len(both) < 2:
        return None
    draws = min(len(one.values[metric]), len(other.values[metric]))
    estimate, _ = curve_difference(
        np.array(one.values[metric])[:draws, first],
        np.array(other.values[metric])[:draws, second],
        widening=cell.widening,
        scale=SCALES.get(metric, SHARE),
        classes=one.classes,
    )
    return estimate
