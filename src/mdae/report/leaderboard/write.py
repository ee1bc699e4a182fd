"""`mdae leaderboard`: result files to tables, figures and one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mdae.data.tables import write_table
from mdae.evaluation.results.reader import read_results
from mdae.files import atomic_write
from mdae.report.leaderboard.calibration import calibrated, calibration_figure
from mdae.report.leaderboard.comparison import Leaderboard, make_leaderboard, remarks, warnings
from mdae.report.leaderboard.config import LeaderboardConfig
from mdae.report.leaderboard.curves import curve_figure, curve_table, curved, curves_frame
from mdae.report.leaderboard.fairness import GroupScore, fairness_frame, fairness_table, group_scores
from mdae.report.leaderboard.figures import bars_figure, cells_figure, means_figure, metric_label, roc_figure
from mdae.report.leaderboard.text import (
    PUBLISHED,
    confusion_table,
    differences_table,
    entries_frame,
    how_to_read,
    means_table,
    references_table,
    task_table,
    tasks_of,
    title_of,
    to_latex,
    to_markdown,
)
from mdae.report.page import Page
from mdae.text import counted
from mdae.version import __version__


def write_leaderboard(config: LeaderboardConfig) -> Path:
    """Write the leaderboard in every format and return the page.

    Raises:
        DataError: what is not a result file, results that cannot stand side by side, or none that was scored.
        ConfigError: no such baseline or figure.
    """
    leaderboard = make_leaderboard(read_results(config.results), config.baseline, config.metric, config.seed)
    for suffix, text in {"md": to_markdown(leaderboard), "tex": to_latex(leaderboard)}.items():
        with atomic_write(config.out / f"leaderboard.{suffix}") as temporary:
            temporary.write_text(text)
    groups = group_scores(leaderboard, config.seed)
    frames = {"leaderboard": entries_frame(leaderboard), "curves": curves_frame(leaderboard)}
    for name, frame in {**frames, "fairness": fairness_frame(groups)}.items():
        if len(frame):
            write_table(config.out / f"{name}.csv", frame)
    path = config.out / "index.html"
    _page(leaderboard, groups).save(path)
    return path


def _page(leaderboard: Leaderboard, groups: Sequence[GroupScore]) -> Page:
    encoders = dict.fromkeys(cell.encoder for cell in leaderboard.cells)
    tasks = dict.fromkeys(cell.task.name for cell in leaderboard.cells)
    page = Page(
        "Leaderboard",
        f"{counted(len(encoders), 'encoder')} on {counted(len(tasks), 'task')} by {metric_label(leaderboard.metric)}, "
        f"each compared with {leaderboard.baseline} on the same subjects.",
    )
    for line in warnings(leaderboard):
        page.note(line)
    for protocol in leaderboard.protocols:
        _show_means(page, leaderboard, protocol)
        _show_cells(page, leaderboard, protocol)
        for task in tasks_of(leaderboard, protocol):
            _show_task(page, leaderboard, protocol, task)
            _show_groups(page, leaderboard, groups, protocol, task)
    header, lines = references_table(leaderboard)
    if lines:
        page.section(
            PUBLISHED,
            "Scores as others printed them: other splits, other selection, no intervals. They are for orientation and "
            "take no part in any ranking above.",
        )
        page.table(header, lines)
    page.section("How to read this", "")
    for line in (*how_to_read(leaderboard), *remarks(leaderboard)):
        page.note(line)
    page.note(f"mdae {__version__}.")
    return page


def _show_means(page: Page, leaderboard: Leaderboard, protocol: str) -> None:
    header, lines = means_table(leaderboard, protocol)
    page.section(
        f"Averages, {protocol}", "The mean over the tasks and contrasts of a scenario, with 95 % intervals."
    )
    ours = [index for index, line in enumerate(lines) if line[0] == "1"]
    page.table(header, _firm(lines), strong=ours)
    if _has_differences(leaderboard, protocol):
        page.figure(
            means_figure(leaderboard, protocol),
            f"Differences from {leaderboard.baseline}. Filled and coloured: decided at 5 % after Holm; hollow and "
            "grey: not.",
        )
        header, lines = differences_table(leaderboard, protocol)
        page.table(header, _firm(lines))


def _show_cells(page: Page, leaderboard: Leaderboard, protocol: str) -> None:
    if _has_differences(leaderboard, protocol):
        page.section(f"Task by task, {protocol}", f"The difference from {leaderboard.baseline} in each cell.")
        headlines = (entry.metric for entry in leaderboard.headlines() if entry.cell.protocol == protocol)
        for metric in dict.fromkeys(headlines):
            page.figure(cells_figure(leaderboard, protocol, metric), "A dash: not compared.")


def _has_differences(leaderboard: Leaderboard, protocol: str) -> bool:
    return any(entry.difference for entry in leaderboard.entries if entry.cell.protocol == protocol)


def _show_task(page: Page, leaderboard: Leaderboard, protocol: str, task: str) -> None:
    cells = [cell for cell in leaderboard.cells if (cell.protocol, cell.task.name) == (protocol, task)]
    page.section(f"{title_of(leaderboard, task)} ({protocol})", cells[0].task.note)
    if any(not cell.refused for cell in cells):
        page.figure(bars_figure(leaderboard, protocol, task), "Each encoder with its 95 % interval.")
        if cells[0].task.num_classes == 2:
            page.figure(roc_figure(leaderboard, protocol, task), "ROC curves; dashed: trivial or untrained.")
        if calibrated(leaderboard, protocol, task):
            page.figure(
                calibration_figure(leaderboard, protocol, task),
                "Calibration: of subjects in bins of as many, the probability that was said and the share that is "
                "positive, with 95 % intervals of the bins. Calibrated models lie on the dotted line.",
            )
    header, lines = task_table(leaderboard, protocol, task)
    page.table(header, _firm(lines))
    header, lines = confusion_table(leaderboard, protocol, task)
    if lines:
        page.note("Subjects of each class, and what they are taken for.")
        page.table(header, lines)
    if curved(leaderboard, protocol, task):
        page.figure(
            curve_figure(leaderboard, protocol, task),
            "Against the number of labelled subjects; bands are 95 % intervals over tested subjects and draws of the "
            "labelled. Smaller draws are parts of larger ones, and all encoders have the same.",
        )
        header, lines = curve_table(leaderboard, protocol, task)
        page.table(header, _firm(lines))


def _show_groups(
    page: Page, leaderboard: Leaderboard, groups: Sequence[GroupScore], protocol: str, task: str
) -> None:
    header, lines = fairness_table(leaderboard, groups, protocol, task)
    if lines:
        page.note(
            "By sex, age band and site, as the data set's table tells them; best to worst is the gap between two "
            "groups that were chosen for it. All contrasts: fairness.csv."
        )
        page.table(header, _firm(lines))


def _firm(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells whose intervals and p do not break over lines."""
    return [[re.sub(r"(?<=[\d,=<p]) (?=[\[=<+\-\d])", "\u00a0", cell) for cell in line] for line in lines]
