"""A leaderboard as text: Markdown, LaTeX, and a frame for CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from mdae.evaluation.results.schema import CONTRAST_KEY
from mdae.evaluation.statistics.multiclass import confusion
from mdae.report.leaderboard.comparison import Entry, Leaderboard, Mean, headline_metric, remarks, warnings
from mdae.report.leaderboard.curves import curve_table, with_interval
from mdae.report.leaderboard.figures import metric_label, shown_name
from mdae.tasks.catalogue import CATALOGUE, SCENARIO_REFERENCES

Lines = list[list[str]]
NOTHING = "–"
PUBLISHED = "Published, not measured here"
CSV_COLUMNS = (
    "encoder", "task", CONTRAST_KEY, "metric", "value", "low", "high", "num_subjects", "difference", "difference_low",
    "difference_high", "p", "p_holm", "num_compared", "protocol", "scenario", "trials", "pretrained_on_it", "refused",
)  # fmt: skip
MARKED = re.compile(r"[\\`*|]|<(?=[A-Za-z/!])")  # what Markdown would take for its own
TYPESET = {"<": "$<$", ">": "$>$", "–": "--", "²": "$^2$"}  # what LaTeX's older fonts have elsewhere


def how_to_read(leaderboard: Leaderboard) -> Iterator[str]:
    """What the figures are, and over what their errors hold."""
    yield (
        "Values carry 95 % intervals over subjects, wider where models were refitted by cross-validation. They are for "
        "these data sets and tasks, not for tasks in general."
    )
    yield (
        f"Differences are an encoder's figure less that of {leaderboard.baseline} on the same subjects: AUROC of two "
        "classes by DeLong's test, all else and averages by a paired bootstrap with one draw of a data set's subjects "
        "for all its cells."
    )
    yield (
        "p is adjusted by Holm. Cells: over all tasks and contrasts of one encoder, one figure and one protocol. "
        "Averages: over all encoders and scenarios of one protocol."
    )
    yield "Encoders that lack cells come last and are not ranked, for their averages are of other tasks."


# -- tables as lists of cells, for every format --------------------------------------------------------------------


def means_table(leaderboard: Leaderboard, protocol: str) -> tuple[list[str], Lines]:
    """Encoders by scenario: averages with intervals."""
    groups = leaderboard.groups(protocol)
    header = [
        "rank",
        "encoder",
        "configurations of its weights",
        *(f"{group}, {_of(leaderboard, protocol, group)}" for group in groups),
    ]
    return header, [
        [
            _rank(leaderboard, protocol, encoder),
            shown_name(leaderboard, encoder),
            leaderboard.trials(protocol, encoder),
        ]
        + [_mean(leaderboard.mean(protocol, group, encoder)) for group in groups]
        for encoder in leaderboard.encoders(protocol)
    ]


def differences_table(leaderboard: Leaderboard, protocol: str) -> tuple[list[str], Lines]:
    """Encoders by scenario: differences of averages from the baseline."""
    groups = leaderboard.groups(protocol)
    header = ["encoder", *(f"{group}, {_of(leaderboard, protocol, group)}" for group in groups)]
    return header, [
        [shown_name(leaderboard, encoder)]
        + [_mean_difference(leaderboard.mean(protocol, group, encoder)) for group in groups]
        for encoder in leaderboard.encoders(protocol)
        if encoder != leaderboard.baseline
    ]


def task_table(leaderboard: Leaderboard, protocol: str, task: str) -> tuple[list[str], Lines]:
    """One task: an encoder and contrast a row."""
    header = [
        *("contrast", "encoder", "figure", "value [95 %]", "subjects", "difference [95 %]", "p (Holm)"),
        "pre-trained on it",
    ]
    cells = [cell for cell in leaderboard.cells if (cell.protocol, cell.task.name) == (protocol, task)]
    lines = []
    for contrast in dict.fromkeys(cell.contrast for cell in cells):
        for encoder in leaderboard.encoders(protocol):
            cell = next((c for c in cells if (c.contrast, c.encoder) == (contrast, encoder)), None)
            if cell is None:
                continue
            entry, name = leaderboard.headline(*cell.place, encoder), shown_name(leaderboard, encoder)
            if entry is None:
                lines.append([contrast, name, NOTHING, f"refused: {cell.refused}", *[NOTHING] * 4])
                continue
            figures = [metric_label(entry.metric), str(entry.estimate), str(len(cell.subjects))]
            lines.append([contrast, name, *figures, *_difference(entry), cell.pretrained_on_it])
    return header, lines


def confusion_table(leaderboard: Leaderboard, protocol: str, task: str) -> tuple[list[str], Lines]:
    """One task of several classes, its contrasts together if there are several: who is taken for whom, by encoder."""
    cells = [
        cell
        for cell in leaderboard.cells
        if (cell.protocol, cell.task.name) == (protocol, task) and not cell.refused
    ]
    label = cells[0].task.label if cells and cells[0].task.num_classes > 2 else None
    if label is None:
        return [], []
    own = {cell.encoder: cell for cell in cells if cell.contrast == cells[-1].contrast}
    return ["encoder", "are", *(f"taken for {name}" for name in label.classes)], [
        [shown_name(leaderboard, encoder), name, *map(str, counts)]
        for encoder in leaderboard.encoders(protocol)
        if encoder in own
        for name, counts in zip(
            label.classes, confusion(own[encoder].labels, own[encoder].predictions), strict=True
        )
    ]


def references_table(leaderboard: Leaderboard) -> tuple[list[str], Lines]:
    """Published scores of these tasks and scenarios; nobody here has measured them."""
    lines = [[task, r.encoder, r.metric, f"{r.value:.3f}", r.source] for task, r in leaderboard.references()]
    known = {task.name for task in CATALOGUE}  # the published means are of no others
    cells = [cell for cell in leaderboard.cells if cell.task.name in known]
    for group in dict.fromkeys([*(cell.group for cell in cells), *(cell.task.kind for cell in cells)]):
        lines += [
            [f"mean of the published {group} tasks", r.encoder, r.metric, f"{r.value:.3f}", r.source]
            for r in SCENARIO_REFERENCES.get(group, ())
        ]
    return ["of", "encoder", "figure", "value", "source"], lines


def tasks_of(leaderboard: Leaderboard, protocol: str) -> list[str]:
    """Names of the tasks of a protocol, in the order they were read."""
    return list(dict.fromkeys(cell.task.name for cell in leaderboard.cells if cell.protocol == protocol))


def title_of(leaderboard: Leaderboard, task: str) -> str:
    """A task's name with what it asks."""
    return f"{task}: {next(cell.task.title for cell in leaderboard.cells if cell.task.name == task)}"


def _rank(leaderboard: Leaderboard, protocol: str, encoder: str) -> str:
    ranked = [name for name in leaderboard.encoders(protocol) if leaderboard.ranked(protocol, name)]
    return str(ranked.index(encoder) + 1) if encoder in ranked else NOTHING


def _of(leaderboard: Leaderboard, protocol: str, group: str) -> str:
    mean = next(m for m in leaderboard.means if (m.protocol, m.group) == (protocol, group))
    return f"{metric_label(mean.metric)} of {mean.of_cells} {'cell' if mean.of_cells == 1 else 'cells'}"


def _mean(mean: Mean | None) -> str:
    if mean is None:
        return NOTHING
    return str(mean.estimate) + ("" if mean.complete else f" ({mean.num_cells} of {mean.of_cells} cells)")


def _mean_difference(mean: Mean | None) -> str:
    if mean is None or mean.difference is None:
        return NOTHING
    few = "" if mean.difference.num_cells == mean.of_cells else f" ({mean.difference.num_cells} cells)"
    return f"{mean.difference.estimate.signed()}, {shown_p(mean.p_holm)}{few}"


def _difference(entry: Entry) -> list[str]:
    if entry.difference is None:
        return [f"not compared: {entry.reason}" if entry.reason else NOTHING, NOTHING]
    return [entry.difference.estimate.signed(), shown_p(entry.p_holm)]


def shown_p(p: float | None) -> str:
    """p to two digits."""
    if p is None:
        return NOTHING
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


# -- formats -------------------------------------------------------------------------------------------------------


def entries_frame(leaderboard: Leaderboard) -> pd.DataFrame:
    """One row an encoder, task, contrast and figure; a refused cell has one row with the reason."""
    return pd.DataFrame(_rows(leaderboard), columns=CSV_COLUMNS, dtype=object)


def _rows(leaderboard: Leaderboard) -> Iterator[dict[str, object]]:
    for cell in leaderboard.cells:
        where = {"encoder": cell.encoder, "task": cell.task.name, CONTRAST_KEY: cell.contrast}
        about: dict[str, object] = {
            "protocol": cell.protocol,
            "scenario": cell.scenario,
            "trials": cell.trials,
        }
        about |= {**where, "pretrained_on_it": cell.pretrained_on_it, "refused": cell.refused}
        if cell.refused:
            yield about | {"metric": headline_metric(cell, leaderboard.metric)}
        for entry in (entry for entry in leaderboard.entries if entry.cell is cell):
            row = about | {"metric": entry.metric, "num_subjects": len(cell.subjects)}
            row |= with_interval("value", entry.estimate)
            if (apart := entry.difference) is not None:
                row |= with_interval("difference", apart.estimate)
                row |= {"p": apart.p, "p_holm": entry.p_holm, "num_compared": apart.num_subjects}
            yield row


def to_markdown(leaderboard: Leaderboard) -> str:
    """The whole leaderboard."""
    parts = [f"# Leaderboard: {metric_label(leaderboard.metric)}, against {leaderboard.baseline}", ""]
    parts += [
        f"- {line}" for line in (*warnings(leaderboard), *how_to_read(leaderboard), *remarks(leaderboard))
    ]
    for protocol in leaderboard.protocols:
        parts += ["", f"## {protocol}", "", *_markdown(*means_table(leaderboard, protocol))]
        differences = differences_table(leaderboard, protocol)
        if differences[1]:
            parts += ["", f"Differences from {leaderboard.baseline}:", "", *_markdown(*differences)]
        for task in tasks_of(leaderboard, protocol):
            parts += [
                "",
                f"### {title_of(leaderboard, task)}",
                "",
                *_markdown(*task_table(leaderboard, protocol, task)),
            ]
            taken = confusion_table(leaderboard, protocol, task)
            if taken[1]:
                parts += ["", "Subjects of each class, and what they are taken for:", "", *_markdown(*taken)]
            curve = curve_table(leaderboard, protocol, task)
            if curve[1]:
                parts += ["", "By the number of labelled subjects:", "", *_markdown(*curve)]
    header, lines = references_table(leaderboard)
    if lines:
        parts += ["", f"## {PUBLISHED}", "", *_markdown(header, lines)]
    return "\n".join(parts) + "\n"


def _markdown(header: Sequence[str], lines: Lines) -> list[str]:
    rows = [[MARKED.sub(r"\\\g<0>", cell) for cell in row] for row in (header, *lines)]
    return [
        f"| {' | '.join(rows[0])} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows[1:]),
    ]


def to_latex(leaderboard: Leaderboard) -> str:
    """Averages and their differences by protocol, as booktabs tables; published scores are left to the writer."""
    parts = ["% needs \\usepackage{booktabs}"]
    for protocol in leaderboard.protocols:
        caption = f"{protocol}: averages with 95 \\% intervals over subjects"
        parts.append(_latex(*means_table(leaderboard, protocol), caption))
        differences = differences_table(leaderboard, protocol)
        if differences[1]:
            parts.append(_latex(*differences, f"{protocol}: differences from the baseline, p by Holm"))
    return "\n".join(parts)


def _latex(header: Sequence[str], lines: Lines, caption: str) -> str:
    """A booktabs table, escaped by pandas; `caption` is not."""
    frame = pd.DataFrame(lines, columns=list(header))
    text = frame.to_latex(index=False, escape=True, caption=caption, column_format="l" * len(header))
    return "".join(TYPESET.get(character, character) for character in text)
