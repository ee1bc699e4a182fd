"""`mdae leaderboard`: result files to tables, figures and one page."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from mdae.evaluation.results.reader import read_results
from mdae.files import atomic_write
from mdae.report.board import Board, make_board, remarks, warnings
from mdae.report.board_figures import bars_figure, cells_figure, means_figure, metric_label, roc_figure
from mdae.report.board_text import (
    PUBLISHED,
    differences_table,
    how_to_read,
    means_table,
    references_table,
    task_table,
    tasks_of,
    title_of,
    to_csv,
    to_latex,
    to_markdown,
)
from mdae.report.curves import curve_figure, curve_table, curved, curves_csv
from mdae.report.leaderboard_config import LeaderboardConfig
from mdae.report.page import Page
from mdae.version import __version__


def leaderboard(config: LeaderboardConfig) -> Path:
    """Write the board in every format and return the page.

    Raises:
        DataError: what is not a result file, results that cannot stand side by side, or none that was scored.
        ConfigError: no such baseline or figure.
    """
    board = make_board(read_results(config.results), config.baseline, config.metric, config.seed)
    texts = {"csv": to_csv(board), "md": to_markdown(board), "tex": to_latex(board)}
    for suffix, text in texts.items():
        with atomic_write(config.out / f"leaderboard.{suffix}") as temporary:
            temporary.write_text(text)
    if len(rows := curves_csv(board)) > 1:
        with atomic_write(config.out / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    path = config.out / "index.html"
    _page(board).save(path)
    return path


def _page(board: Board) -> Page:
    encoders = dict.fromkeys(cell.encoder for cell in board.cells)
    tasks = dict.fromkeys(cell.task.name for cell in board.cells)
    page = Page(
        "Leaderboard",
        f"{len(encoders)} encoders on {len(tasks)} tasks by {metric_label(board.metric)}, "
        f"each compared with {board.baseline} on the same subjects.",
    )
    for line in warnings(board):
        page.note(line)
    for protocol in board.protocols:
        _show_means(page, board, protocol)
        _show_cells(page, board, protocol)
        for task in tasks_of(board, protocol):
            _show_task(page, board, protocol, task)
    header, lines = references_table(board)
    if lines:
        page.section(
            PUBLISHED,
            "Scores as others printed them: other splits, other selection, no intervals. They are for orientation and "
            "take no part in any ranking above.",
        )
        page.table(header, lines)
    page.section("How to read this", "")
    for line in (*how_to_read(board), *remarks(board)):
        page.note(line)
    page.note(f"mdae {__version__}.")
    return page


def _show_means(page: Page, board: Board, protocol: str) -> None:
    header, lines = means_table(board, protocol)
    page.section(
        f"Averages, {protocol}", "The mean over the tasks and modalities of a scenario, with 95 % intervals."
    )
    ours = [index for index, line in enumerate(lines) if line[0] == "1"]
    page.table(header, _firm(lines), strong=ours)
    if _has_differences(board, protocol):
        page.figure(
            means_figure(board, protocol),
            f"Differences from {board.baseline}. Filled and coloured: decided at 5 % after Holm; hollow and grey: not.",
        )
        header, lines = differences_table(board, protocol)
        page.table(header, _firm(lines))


def _show_cells(page: Page, board: Board, protocol: str) -> None:
    if _has_differences(board, protocol):
        page.section(f"Task by task, {protocol}", f"The difference from {board.baseline} in each cell.")
        headlines = (entry.metric for entry in board.headlines() if entry.cell.protocol == protocol)
        for metric in dict.fromkeys(headlines):
            page.figure(cells_figure(board, protocol, metric), "A dash: not compared.")


def _has_differences(board: Board, protocol: str) -> bool:
    return any(entry.difference for entry in board.entries if entry.cell.protocol == protocol)


def _show_task(page: Page, board: Board, protocol: str, task: str) -> None:
    cells = [cell for cell in board.cells if (cell.protocol, cell.task.name) == (protocol, task)]
    page.section(f"{title_of(board, task)} ({protocol})", cells[0].task.note)
    if any(not cell.refused for cell in cells):
        page.figure(bars_figure(board, protocol, task), "Each encoder with its 95 % interval.")
        if cells[0].task.kind == "classification":
            page.figure(roc_figure(board, protocol, task), "ROC curves; dashed: trivial or untrained.")
    header, lines = task_table(board, protocol, task)
    page.table(header, _firm(lines))
    if curved(board, protocol, task):
        page.figure(
            curve_figure(board, protocol, task),
            "Against the number of labelled subjects; bands are 95 % intervals over tested subjects and draws of the "
            "labelled. Smaller draws are parts of larger ones, and all encoders have the same.",
        )
        header, lines = curve_table(board, protocol, task)
        page.table(header, _firm(lines))


def _firm(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells whose intervals and p do not break over lines."""
    return [[re.sub(r"(?<=[\d,=<p]) (?=[\[=<+\-\d])", "\u00a0", cell) for cell in line] for line in lines]
