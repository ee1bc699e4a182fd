"""A leaderboard as text: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from mdae.evaluation.statistics.intervals import Estimate
from mdae.report.board import Board, Entry, Mean, headline_metric, remarks, warnings
from mdae.report.board_figures import metric_label, shown_name
from mdae.report.curves import curve_table
from mdae.tasks.catalogue import CATALOGUE, SCENARIO_REFERENCES

Lines = list[list[str]]
NOTHING = "–"
PUBLISHED = "Published, not measured here"
CSV_COLUMNS = (
    "encoder", "task", "modality", "metric", "value", "low", "high", "num_subjects", "difference", "difference_low",
    "difference_high", "p", "p_holm", "num_compared", "protocol", "scenario", "trials", "refused",
)  # fmt: skip
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "²": "$^2$",
    "<": "$<$",
    ">": "$>$",
}
SPECIAL |= {character: "\\" + character for character in "&%$#_{}"}


def how_to_read(board: Board) -> Iterator[str]:
    """What the figures are, and over what their errors hold."""
    yield (
        "Values carry 95 % intervals over subjects, wider where models were refitted by cross-validation. They are for "
        "these data sets and tasks, not for tasks in general."
    )
    yield (
        f"Differences are an encoder's figure less that of {board.baseline} on the same subjects: AUROC by DeLong's "
        "test, all else and averages by a paired bootstrap with one draw of a data set's subjects for all its cells."
    )
    yield (
        "p is adjusted by Holm. Cells: over all tasks and modalities of one encoder, one figure and one protocol. "
        "Averages: over all encoders and scenarios of one protocol."
    )
    yield "Encoders that lack cells come last and are not ranked, for their averages are of other tasks."


# -- tables as lists of cells, for every format --------------------------------------------------------------------


def means_table(board: Board, protocol: str) -> tuple[list[str], Lines]:
    """Encoders by scenario: averages with intervals."""
    groups = board.groups(protocol)
    header = [
        "rank",
        "encoder",
        "configurations of its weights",
        *(f"{group}, {_of(board, protocol, group)}" for group in groups),
    ]
    return header, [
        [_rank(board, protocol, encoder), shown_name(board, encoder), board.trials(protocol, encoder)]
        + [_mean(board.mean(protocol, group, encoder)) for group in groups]
        for encoder in board.encoders(protocol)
    ]


def differences_table(board: Board, protocol: str) -> tuple[list[str], Lines]:
    """Encoders by scenario: differences of averages from the baseline."""
    groups = board.groups(protocol)
    header = ["encoder", *(f"{group}, {_of(board, protocol, group)}" for group in groups)]
    return header, [
        [shown_name(board, encoder)]
        + [_mean_difference(board.mean(protocol, group, encoder)) for group in groups]
        for encoder in board.encoders(protocol)
        if encoder != board.baseline
    ]


def task_table(board: Board, protocol: str, task: str) -> tuple[list[str], Lines]:
    """One task: an encoder and modality a row."""
    header = ["modality", "encoder", "figure", "value [95 %]", "subjects", "difference [95 %]", "p (Holm)"]
    cells = [cell for cell in board.cells if (cell.protocol, cell.task.name) == (protocol, task)]
    lines = []
    for modality in dict.fromkeys(cell.modality for cell in cells):
        for encoder in board.encoders(protocol):
            cell = next((c for c in cells if (c.modality, c.encoder) == (modality, encoder)), None)
            if cell is None:
                continue
            entry, name = board.headline(*cell.place, encoder), shown_name(board, encoder)
            if entry is None:
                lines.append([modality, name, NOTHING, f"refused: {cell.refused}", NOTHING, NOTHING, NOTHING])
                continue
            number, figure = str(len(cell.subjects)), metric_label(entry.metric)
            lines.append([modality, name, figure, str(entry.estimate), number, *_difference(entry)])
    return header, lines


def references_table(board: Board) -> tuple[list[str], Lines]:
    """Published scores of these tasks and scenarios; nobody here has measured them."""
    lines = [[task, r.encoder, r.metric, f"{r.value:.3f}", r.source] for task, r in board.references()]
    known = {task.name for task in CATALOGUE}  # the published means are of no others
    cells = [cell for cell in board.cells if cell.task.name in known]
    for group in dict.fromkeys([*(cell.group for cell in cells), *(cell.task.kind for cell in cells)]):
        lines += [
            [f"mean of the published {group} tasks", r.encoder, r.metric, f"{r.value:.3f}", r.source]
            for r in SCENARIO_REFERENCES.get(group, ())
        ]
    return ["of", "encoder", "figure", "value", "source"], lines


def tasks_of(board: Board, protocol: str) -> list[str]:
    """Names of the tasks of a protocol, in the order they were read."""
    return list(dict.fromkeys(cell.task.name for cell in board.cells if cell.protocol == protocol))


def title_of(board: Board, task: str) -> str:
    """A task's name with what it asks."""
    return f"{task}: {next(cell.task.title for cell in board.cells if cell.task.name == task)}"


def _rank(board: Board, protocol: str, encoder: str) -> str:
    ranked = [name for name in board.encoders(protocol) if board.ranked(protocol, name)]
    return str(ranked.index(encoder) + 1) if encoder in ranked else NOTHING


def _of(board: Board, protocol: str, group: str) -> str:
    mean = next(m for m in board.means if (m.protocol, m.group) == (protocol, group))
    return f"{metric_label(mean.metric)} of {mean.of_cells} {'cell' if mean.of_cells == 1 else 'cells'}"


def _mean(mean: Mean | None) -> str:
    if mean is None:
        return NOTHING
    return str(mean.estimate) + ("" if mean.complete else f" ({mean.num_cells} of {mean.of_cells} cells)")


def _mean_difference(mean: Mean | None) -> str:
    if mean is None or mean.difference is None:
        return NOTHING
    few = "" if mean.difference.num_cells == mean.of_cells else f" ({mean.difference.num_cells} cells)"
    return f"{signed(mean.difference.estimate)}, {shown_p(mean.p_holm)}{few}"


def _difference(entry: Entry) -> list[str]:
    if entry.difference is None:
        return [f"not compared: {entry.reason}" if entry.reason else NOTHING, NOTHING]
    return [signed(entry.difference.estimate), shown_p(entry.p_holm)]


def signed(estimate: Estimate) -> str:
    """A difference with its interval."""
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def shown_p(p: float | None) -> str:
    """p to two digits."""
    if p is None:
        return NOTHING
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


# -- formats -------------------------------------------------------------------------------------------------------


def to_csv(board: Board) -> str:
    """One row an encoder, task, modality and figure; a refused cell has one row with the reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for cell in board.cells:
        about = [cell.protocol, cell.scenario, "" if cell.trials is None else cell.trials, cell.refused]
        where = [cell.encoder, cell.task.name, cell.modality]
        if cell.refused:
            writer.writerow([*where, headline_metric(cell, board.metric), *[""] * 10, *about])
        for entry in (entry for entry in board.entries if entry.cell is cell):
            e, d = entry.estimate, entry.difference
            compared = (
                [""] * 6
                if d is None
                else [d.estimate.value, d.estimate.low, d.estimate.high, d.p, entry.p_holm, d.num_subjects]
            )
            figures = [entry.metric, e.value, e.low, e.high, len(cell.subjects)]
            writer.writerow([*where, *figures, *compared, *about])
    return text.getvalue()


def to_markdown(board: Board) -> str:
    """The whole board."""
    parts = [f"# Leaderboard: {metric_label(board.metric)}, against {board.baseline}", ""]
    parts += [f"- {line}" for line in (*warnings(board), *how_to_read(board), *remarks(board))]
    for protocol in board.protocols:
        parts += ["", f"## {protocol}", "", *_markdown(*means_table(board, protocol))]
        differences = differences_table(board, protocol)
        if differences[1]:
            parts += ["", f"Differences from {board.baseline}:", "", *_markdown(*differences)]
        for task in tasks_of(board, protocol):
            parts += ["", f"### {title_of(board, task)}", "", *_markdown(*task_table(board, protocol, task))]
            curve = curve_table(board, protocol, task)
            if curve[1]:
                parts += ["", "By the number of labelled subjects:", "", *_markdown(*curve)]
    header, lines = references_table(board)
    if lines:
        parts += ["", f"## {PUBLISHED}", "", *_markdown(header, lines)]
    return "\n".join(parts) + "\n"


def _markdown(header: Sequence[str], lines: Lines) -> list[str]:
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (header, *lines)]
    return [
        f"| {' | '.join(rows[0])} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows[1:]),
    ]


def to_latex(board: Board) -> str:
    """Averages and their differences by protocol, as booktabs tables; published scores are left to the writer."""
    parts = ["% needs \\usepackage{booktabs}"]
    for protocol in board.protocols:
        caption = f"{protocol}: averages with 95 % intervals over subjects"
        parts += _latex(*means_table(board, protocol), caption)
        differences = differences_table(board, protocol)
        if differences[1]:
            parts += _latex(*differences, f"{protocol}: differences from {board.baseline}, p by Holm")
    return "\n".join(parts) + "\n"


def _latex(header: Sequence[str], lines: Lines, caption: str) -> list[str]:
    rows = [" & ".join(map(escape, row)) + r" \\" for row in (header, *lines)]
    return [
        r"\begin{table}",
        rf"  \caption{{{escape(caption)}}}",
        rf"  \begin{{tabular}}{{{'l' * len(header)}}}",
        r"    \toprule",
        f"    {rows[0]}",
        r"    \midrule",
        *(f"    {row}" for row in rows[1:]),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def escape(text: str) -> str:
    """Text for LaTeX."""
    return "".join(SPECIAL.get(character, character) for character in text)
