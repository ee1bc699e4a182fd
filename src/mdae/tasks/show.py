"""The catalogue for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from mdae.tasks.catalogue import CATALOGUE, SCENARIO_REFERENCES
from mdae.tasks.layouts import LAYOUTS
from mdae.tasks.record import LabelRule, Task, scenario_of


def tasks_table() -> Table:
    """One row a task."""
    table = Table(caption="mdae tasks NAME tells where the data are to be had and how they must lie")
    for column in ("task", "asks for", "contrasts"):
        table.add_column(column, no_wrap=column == "task")
    for task in CATALOGUE:
        table.add_row(task.name, task.title, " ".join(task.contrasts))
    return table


def show_task(task: Task) -> Iterator[str]:
    """All that the record says, a line each."""
    yield f"{task.name}: {task.title} ({task.kind})"
    yield f"cohort: {task.cohort}"
    yield f"split: {task.split}; compared by {task.metric.upper()}"
    if task.label is not None:
        yield f"label: {_rule(task.label)}"
    yield "contrasts: " + ", ".join(f"{name} ({scenario_of(task, name)})" for name in task.contrasts)
    yield f"layout {task.layout}: {' '.join((LAYOUTS[task.layout].__doc__ or '').split())}"
    if task.access:
        yield f"access: {task.access} ({task.licence})"
    if task.note:
        yield f"note: {task.note}"
    for reference in task.references:
        yield f"published: {reference.encoder} {reference.metric} {reference.value:.3f} ({reference.source})"
    if task not in CATALOGUE:
        return
    scenarios = [scenario_of(task, name) for name in task.contrasts]
    for scenario in dict.fromkeys([*scenarios, task.kind]):
        for reference in SCENARIO_REFERENCES.get(scenario, ()):
            shown = f"{reference.encoder} {reference.metric} {reference.value:.3f} ({reference.source})"
            yield f"published mean of all {scenario} tasks: {shown}"


def _rule(rule: LabelRule) -> str:
    """A rule in words."""
    if rule.classes:
        return f"column {rule.column!r}: {', '.join(f'{k} if {name}' for k, name in enumerate(rule.classes))}"
    if rule.positive:
        negative = f", 0 if {' or '.join(rule.negative)}" if rule.negative else ", else 0"
        positive = "anything else" if rule.positive == ("*",) else " or ".join(rule.positive)
        return f"column {rule.column!r}: 1 if {positive}{negative}"
    if rule.above is None and rule.event:
        return f"time {rule.column!r}, which ends in the event where {rule.event!r} is {' or '.join(rule.happened)}"
    if rule.above is None:
        return f"column {rule.column!r}, a number"
    lost = (
        f"; left out if lost before ({rule.event!r} is not {' or '.join(rule.happened)})"
        if rule.event
        else ""
    )
    return f"column {rule.column!r}: 1 if above {rule.above:g}{lost}"
