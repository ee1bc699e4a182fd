"""The table of a sweep: every run in one CSV, every variant with its interval in another, and a page with both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mdae.data.tables import write_table
from mdae.errors import DataError
from mdae.evaluation.results.paired import SubjectDraws, figures_of
from mdae.evaluation.results.reader import Cell, read_results
from mdae.evaluation.results.schema import CONTRAST_KEY
from mdae.report.figures import forest_figure
from mdae.report.page import Page
from mdae.sweep.figures import landscape_figure
from mdae.sweep.spec import Spec, SweepRun
from mdae.sweep.state import outcome
from mdae.sweep.summary import Row, adjusted, summarise

Place = tuple[str, str, str]  # protocol, task, contrast


def make_table(spec: Spec, folder: Path, out: Path) -> Path:
    """Write runs.csv, summary.csv and index.html of the runs that have ended; the page.

    Args:
        spec: the sweep.
        folder: of its runs.
        out: of the table.

    Raises:
        DataError: none has.
    """
    runs = {run: outcome(run, folder / run.key) for run in spec.runs()}
    ended = {run: state for run, state in runs.items() if state is not None}
    if not ended:
        raise DataError("no run has ended", where=out, mend="start it without --table")
    cells = {run: _cells(run, folder / run.key, state) for run, state in ended.items()}
    write_table(
        out / "runs.csv", pd.DataFrame([row for run in ended for row in _lines(run, spec, ended, cells)])
    )
    rows = _summary(spec, cells)
    if rows:
        write_table(out / "summary.csv", pd.DataFrame([_flat(row, spec) for row in rows]))
    page = _page(spec, runs, rows)
    page.save(out / "index.html")
    return out / "index.html"


def _cells(run: SweepRun, folder: Path, state: Mapping[str, Any]) -> dict[Place, Cell]:
    """What the tasks said of a run; nothing of one that failed."""
    judged = state.get("tasks", ())
    folders = [config.out for key, config in run.evaluations(folder).items() if key in judged]
    return {cell.place: cell for own in folders for cell in read_results([own])}


def _lines(
    run: SweepRun,
    spec: Spec,
    ended: Mapping[SweepRun, Mapping[str, Any]],
    cells: Mapping[SweepRun, Mapping[Place, Cell]],
) -> list[dict[str, Any]]:
    """A run's lines: one a task and contrast, or one alone if it failed or was not judged."""
    state = ended[run]
    about = {
        "variant": run.variant,
        **{name: run.options.get(name) for name in spec.axes()},
        "seed": run.seed,
        "run": run.key,
        "pretraining_s": state.get("pretraining_s"),
        "error": _error(run, state),
    }
    own = cells.get(run, {})
    lines = []
    for (protocol, task, contrast), cell in own.items():
        place = {
            "protocol": protocol,
            "task": task,
            CONTRAST_KEY: contrast,
            "num_subjects": len(cell.subjects),
        }
        figures = {name: estimate.value for name, estimate in cell.scores.items()} or _means(cell)
        lines.append({**about, **place, "refused": cell.refused, **figures})
    return lines or [about]


def _error(run: SweepRun, state: Mapping[str, Any]) -> str:
    """Why a run, or a task of its sweep, failed; "" if none did."""
    failed = state.get("failed_tasks", {})  # of other sweeps that share the run as well
    return state.get("error") or "; ".join(failed[key] for key in run.spec.trials if key in failed)


def _means(cell: Cell) -> dict[str, float]:
    """Of subjects who are too few for an interval; `refused` says so beside them."""
    return {name: float(np.nanmean(own)) for name, own in cell.values.items() if np.isfinite(own).any()}


def _summary(spec: Spec, cells: Mapping[SweepRun, Mapping[Place, Cell]]) -> list[Row]:
    """Every variant at every place, compared with the baseline."""
    sound = {
        run: {place: cell for place, cell in own.items() if not cell.refused} for run, own in cells.items()
    }
    draws = SubjectDraws(cell for own in sound.values() for cell in own.values())
    places = dict.fromkeys(place for own in sound.values() for place in own)
    rows = []
    for place in places:
        by_variant: dict[str, dict[int, Cell]] = {}
        for run, own in sound.items():
            if place in own:
                by_variant.setdefault(run.variant, {})[run.seed] = own[place]
        first = next(own[place] for own in sound.values() if place in own)
        metric = (
            first.task.metric if first.task.metric in figures_of(first) else next(iter(figures_of(first)))
        )
        rows += summarise(by_variant, spec.baseline, metric, draws)
    return adjusted(rows)


def _flat(row: Row, spec: Spec) -> dict[str, Any]:
    """A row for a program to read."""
    options = spec.variants[row.variant]
    difference = row.difference
    return {
        "variant": row.variant,
        **{name: options.get(name) for name in spec.axes()},
        "protocol": row.protocol,
        "task": row.task,
        CONTRAST_KEY: row.contrast,
        "metric": row.metric,
        "num_seeds": row.num_seeds,
        "num_subjects": row.num_subjects,
        "value": row.estimate.value,
        "low": row.estimate.low,
        "high": row.estimate.high,
        "seed_sd": row.seed_sd,
        "difference": None if difference is None else difference.value,
        "difference_low": None if difference is None else difference.low,
        "difference_high": None if difference is None else difference.high,
        "p": row.p,
        "p_holm": row.p_holm,
    }


def _page(spec: Spec, runs: Mapping[SweepRun, Mapping[str, Any] | None], rows: list[Row]) -> Page:
    """Pictures and a table of every place, and what failed."""
    ended = sum(state is not None for state in runs.values())
    page = Page(
        f"Sweep: {spec.path.stem}",
        f"{ended} of {len(runs)} runs have ended: {len(spec.variants)} variants, {len(spec.seeds)} seeds.",
    )
    places = dict.fromkeys((row.protocol, row.task, row.contrast) for row in rows)
    for protocol, task, contrast in places:
        here = [row for row in rows if (row.protocol, row.task, row.contrast) == (protocol, task, contrast)]
        metric = here[0].metric.replace("_", " ")
        page.section(
            f"{task}, {contrast}, {protocol}",
            f"{metric}: means over seeds; 95 % intervals over other subjects and other seeds, p adjusted for all "
            f"comparisons on this page (Holm). Compared with {spec.baseline}.",
        )
        axes = _numeric_axes(spec)
        if len(axes) == 2:
            caption = "Left: means. Right: half the interval's width. Outlined: not to be told from the best."
            page.figure(landscape_figure(here, spec.variants, axes), caption)
        else:
            page.figure(_forest(here), "Means with 95 % intervals; the dotted line is the baseline's mean.")
        page.table(
            _HEADER, [_shown(row) for row in here], strong=[i for i, r in enumerate(here) if _stands_out(r)]
        )
    for run, state in runs.items():
        if state is not None and (error := _error(run, state)):
            page.note(f"Failed: {run.variant}, seed {run.seed}: {error}")
    return page


def _forest(rows: list[Row]) -> Figure:
    """The intervals of one place below each other."""
    return forest_figure(
        [(row.variant, row.estimate.value, row.estimate.low, row.estimate.high) for row in rows],
        label=f"{rows[0].metric.replace('_', ' ')}, 95 % interval",
        line=next((row.estimate.value for row in rows if row.difference is None), None),
    )


_HEADER = (
    "variant",
    "seeds",
    "subjects",
    "mean [95 %]",
    "sd over seeds",
    "less the baseline [95 %]",
    "p, adjusted",
)


def _shown(row: Row) -> list[str]:
    """A row for a person to read."""
    difference = row.difference
    return [
        row.variant,
        str(row.num_seeds),
        str(row.num_subjects),
        str(row.estimate),
        f"{row.seed_sd:.3f}" if row.num_seeds > 1 else "-",
        "" if difference is None else difference.signed(),
        "" if row.p_holm is None else f"{row.p_holm:.3f}",
    ]


def _stands_out(row: Row) -> bool:
    return row.p_holm is not None and row.p_holm < 0.05


def _numeric_axes(spec: Spec) -> list[str]:
    """The two names of a plane of numbers, if that is what the variants are; else none."""
    axes = spec.axes()
    values = [changes.get(name) for changes in spec.variants.values() for name in axes]
    plane = len(axes) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return axes if plane and len(spec.variants) >= 4 else []
