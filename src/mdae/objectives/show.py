"""The objectives for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from rich.table import Table

from mdae.objectives.registry import OBJECTIVES, find_objective
from mdae.objectives.settings import as_text, flatten, setting_types


def objectives_table() -> Table:
    """One row an objective."""
    table = Table(caption="mdae objectives NAME lists its settings, which mdae pretrain --set changes")
    for column in ("objective", "learns from", "paper"):
        table.add_column(column, no_wrap=column == "objective")
    for name, spec in OBJECTIVES.items():
        table.add_row(name, spec.summary, spec.paper)
    return table


def show_objective(name: str) -> Iterator[str]:
    """Paper, summary and every setting with its published value, a line each; `ConfigError` for an unknown name."""
    spec = find_objective(name)
    yield f"{name}: {spec.summary}"
    yield f"paper: {spec.paper}"
    types = setting_types(type(spec.settings))
    for path, value in flatten(spec.settings).items():
        hint = types[path]
        choices = f"  ({', '.join(map(str, get_args(hint)))})" if get_origin(hint) is Literal else ""
        yield f"  {path}={as_text(value)}{'  (what makes it this objective)' if path in spec.fixed else choices}"
