"""Calibration plots: of those who were said to be positive with a probability, how many are."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from mdae.evaluation.results.reader import Cell
from mdae.report.leaderboard.comparison import Leaderboard, mark
from mdae.report.leaderboard.figures import colours, squares_figure

BINS, EACH = 10, 8  # at most so many bins, of no fewer subjects


def calibrated(leaderboard: Leaderboard, protocol: str, task: str) -> list[Cell]:
    """The cells of a task whose probabilities can be plotted: those of two classes."""
    return [
        cell
        for cell in leaderboard.cells
        if (cell.protocol, cell.task.name) == (protocol, task)
        and cell.task.num_classes == 2
        and not cell.refused
        and np.isfinite(cell.probabilities).any()
    ]


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Bins of as many subjects: mean probability, share of positives, and its 95 % interval, (B, 4).

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of the positive class.

    The interval is Clopper and Pearson's of the bin's subjects.
    """
    order = np.argsort(probabilities, kind="stable")
    rows = np.array_split(order, max(1, min(BINS, len(order) // EACH)))
    points = []
    for some in rows:
        positive, number = int(labels[some].sum()), len(some)
        low = stats.beta.ppf(0.025, positive, number - positive + 1) if positive else 0.0
        high = stats.beta.ppf(0.975, positive + 1, number - positive) if positive < number else 1.0
        points.append([float(probabilities[some].mean()), positive / number, float(low), float(high)])
    return np.array(points)


def calibration_figure(leaderboard: Leaderboard, protocol: str, task: str) -> Figure:
    """Said against true shares of every encoder: a panel a contrast."""
    cells, colour = calibrated(leaderboard, protocol, task), colours(leaderboard)
    contrasts = list(dict.fromkeys(cell.contrast for cell in cells))

    def draw(axis: Axes, contrast: str) -> None:
        for cell in (cell for cell in cells if cell.contrast == contrast):
            said, true, low, high = reliability(cell.labels, cell.probabilities).T
            shade, style = colour[cell.encoder], "--" if mark(cell.encoder) else "-"
            axis.vlines(said, low, high, color=shade, alpha=0.3, linewidth=1.2)
            axis.plot(said, true, color=shade, linestyle=style, marker="o", markersize=3, label=cell.encoder)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")

    names = ("said probability", "share of positives")
    return squares_figure(contrasts, draw, names, leaderboard.encoders(protocol))
