"""Whether the words of a label's rule stand in the table that it reads: those that no row has are misspelled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mdae.errors import DataError
from mdae.tasks.record import ANY, MISSING, LabelRule, Task, one_of

SHOWN = 6  # of a column's values

Row = Mapping[str, str]


def require_words(task: Task, rows: Sequence[Row], where: Path) -> None:
    """Raises `DataError` where a class, or the event, of a task is in no row, or a number in none.

    Args:
        task: with a label.
        rows: of everybody, with the columns that the rule names.
        where: the table, for errors.
    """
    if task.label is None:
        return
    for key, column, words in _named(task.label):
        told = _told(rows, column)
        if told and not any(one_of(row.get(column, ""), words) for row in rows):
            raise DataError(
                f"no row's {column!r} is {' or '.join(map(repr, words))}; it has {_some(told)}",
                where=where,
                mend=f"correct {key!r} in the label of {task.name}",
            )
    if not (task.label.positive or task.label.classes):
        told = _told(rows, task.label.column)
        if told and not any(map(_is_number, told)):
            raise DataError(
                f"no row's {task.label.column!r} is a number; it has {_some(told)}",
                where=where,
                mend=f"name its 'positive' values or 'classes' in the label of {task.name}, or another column",
            )


def _named(rule: LabelRule) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each group of words that some row has to have: the rule's key, the column, the words."""
    yield from (("classes", rule.column, (name,)) for name in rule.classes)
    if rule.positive and rule.positive != (ANY,):
        yield "positive", rule.column, rule.positive
    if rule.negative:
        yield "negative", rule.column, rule.negative
    if rule.event:
        yield "happened", rule.event, rule.happened


def _told(rows: Sequence[Row], column: str) -> list[str]:
    """The cells of a column that tell something."""
    cells = (row.get(column, "").strip() for row in rows)
    return [cell for cell in cells if cell.casefold() not in MISSING]


def _some(cells: Sequence[str]) -> str:
    names = list(dict.fromkeys(cells))
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
