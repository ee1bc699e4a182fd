"""Scores by sex, age band and site, where the data set's table tells them: whom an encoder serves less well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdae.evaluation.results.paired import (
    NOT_COMPARED,
    SubjectDraws,
    average,
    fewest_of,
    figures_of,
    sign_of,
    subject_dof,
)
from mdae.evaluation.results.reader import Cell
from mdae.evaluation.results.schema import CONTRAST_KEY
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, SHARE, Estimate
from mdae.evaluation.statistics.scores import SCALES
from mdae.evaluation.statistics.tests import difference_test
from mdae.report.leaderboard.comparison import Leaderboard
from mdae.report.leaderboard.curves import with_interval
from mdae.report.leaderboard.figures import metric_label, shown_name

UNKNOWN = "not known"


@dataclass(frozen=True)
class GroupScore:
    """A cell's figure in one group of subjects.

    Attributes:
        cell, metric: of what.
        attribute, group: "sex" and "female", say; "" for the largest gap between two groups.
        num_subjects: in the group.
        estimate: the figure with its interval over the group's subjects, or the gap; None if refused.
        refused: why there is no figure; "" if there is.
    """

    cell: Cell
    metric: str
    attribute: str
    group: str
    num_subjects: int
    estimate: Estimate | None
    refused: str = ""


def group_scores(leaderboard: Leaderboard, seed: int) -> list[GroupScore]:
    """Every cell's headline figure in every group, and after each attribute the gap from best to worst group."""
    draws = SubjectDraws(leaderboard.cells, seed)
    found = []
    for entry in leaderboard.headlines():
        for attribute in entry.cell.attributes:
            if entry.metric not in NOT_COMPARED and entry.metric in figures_of(entry.cell):
                found += _of_attribute(entry.cell, entry.metric, attribute, draws)
    return found


def _of_attribute(cell: Cell, metric: str, attribute: str, draws: SubjectDraws) -> list[GroupScore]:
    values = cell.attributes[attribute]
    parts = {value: cell.among(np.flatnonzero(values == value)) for value in _in_order(np.unique(values))}
    rows, scored = [], []
    for value, own in parts.items():
        number, fewest = len(own.subjects), fewest_of([own])
        if fewest < MIN_SUBJECTS:
            few = f"{fewest} of a class" if cell.task.num_classes else f"{fewest}"
            refused = f"{few}, and {MIN_SUBJECTS} are wanted"
            rows.append(GroupScore(cell, metric, attribute, value or UNKNOWN, number, None, refused))
            continue
        estimate = average([own], metric, draws)
        rows.append(GroupScore(cell, metric, attribute, value or UNKNOWN, number, estimate))
        scored.append((estimate.value, own))
    if len(scored) > 1:
        gap = _gap(metric, scored, draws)
        rows.append(GroupScore(cell, metric, attribute, "", len(cell.subjects), gap))
    return rows


def _in_order(values: Sequence[str] | np.ndarray) -> list[str]:
    """Bands by age, words by the alphabet, what is not known last."""
    return sorted(map(str, values), key=lambda v: (not v, int(v.split()[0]) if v[:1].isdigit() else 0, v))


def _gap(metric: str, scored: Sequence[tuple[float, Cell]], draws: SubjectDraws) -> Estimate:
    """From the best to the worst group, whose subjects are others: their errors add up."""
    sign = sign_of(metric)
    best, worst = (choose(scored, key=lambda one: sign * one[0])[1] for choose in (max, min))
    found = [draws.deviations(cell, metric) for cell in (best, worst)]
    error = math.sqrt(sum(float(deviations.std()) ** 2 for _, deviations in found))
    scale = SCALES.get(metric, SHARE)
    estimate, _ = difference_test(
        sign * (found[0][0] - found[1][0]),
        error,
        fewest=fewest_of([best, worst]),
        dof=subject_dof([best, worst]),
        bound=scale.high - scale.low,
    )
    return estimate


def fairness_table(
    leaderboard: Leaderboard, scores: Sequence[GroupScore], protocol: str, task: str
) -> tuple[list[str], list[list[str]]]:
    """One task, its contrasts together if there are several: a group a row, an encoder a column."""
    own = [one for one in scores if (one.cell.protocol, one.cell.task.name) == (protocol, task)]
    contrasts = list(dict.fromkeys(one.cell.contrast for one in own))
    own = [one for one in own if one.cell.contrast == contrasts[-1]] if own else []
    encoders = [
        name for name in leaderboard.encoders(protocol) if any(one.cell.encoder == name for one in own)
    ]
    label = metric_label(own[0].metric) if own else ""
    header = ["", "group", *(f"{shown_name(leaderboard, name)}, {label}" for name in encoders)]
    lines = []
    for attribute, group in dict.fromkeys((one.attribute, one.group) for one in own):
        row = [one for one in own if (one.attribute, one.group) == (attribute, group)]
        cells = {one.cell.encoder: _shown(one) for one in row}
        lines.append([attribute, group or "best to worst", *(cells.get(name, "–") for name in encoders)])
    return header, lines


def _shown(score: GroupScore) -> str:
    if score.estimate is None:
        return f"{score.num_subjects}: {score.refused}"
    return f"{score.estimate}" + (f" of {score.num_subjects}" if score.group else "")


def fairness_frame(scores: Sequence[GroupScore]) -> pd.DataFrame:
    """A row a cell, attribute and group; the gap stands beside the group that is none."""
    rows = []
    for one in scores:
        cell, gap = one.cell, not one.group
        about: dict[str, object] = {
            "task": cell.task.name,
            "protocol": cell.protocol,
            CONTRAST_KEY: cell.contrast,
        }
        about |= {"encoder": cell.encoder, "attribute": one.attribute, "group": one.group}
        about |= {"num_subjects": one.num_subjects, "metric": one.metric}
        own, apart = (None, one.estimate) if gap else (one.estimate, None)
        figures = with_interval("value", own) | with_interval("gap", apart)
        rows.append({**about, **figures, "refused": one.refused})
    return pd.DataFrame(rows)
