"""Scores of subjects to the figures of a task, each contrast's with intervals, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mdae.evaluation.cohort import Cohort, tested_rows
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.probing.cross_validation import Scored
from mdae.evaluation.results.schema import ContrastResult
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, Estimate, Weighted, cross_validation_widening
from mdae.evaluation.statistics.multiclass import multiclass_figures, multiclass_scores
from mdae.evaluation.statistics.scores import (
    classification_figures,
    classification_scores,
    regression_figures,
    regression_scores,
)
from mdae.evaluation.statistics.survival import concordance, survival_scores
from mdae.tasks.record import Task, scenario_of
from mdae.text import counted


def judge(
    task: Task,
    contrasts: Sequence[str],
    cohort: Cohort,
    parts: np.ndarray | None,
    score: Callable[[str], Scored],
    config: EvaluateConfig,
) -> list[ContrastResult]:
    """Each contrast's figures, or why there are none.

    Args:
        parts: (N,) train, val, test or "" for each case; None for cross-validation.
        score: a contrast's name to `Scored` of all cases, of which those in the test part (all, if cross-validated)
            are used. It is not called where too few could be scored.
    """
    tested = tested_rows(parts, len(cohort.cases))
    widening = cross_validation_widening(config.folds) if parts is None else 1.0
    refused = _too_few(task, cohort.labels, parts, config.folds)
    results = []
    for contrast in contrasts:
        blank = ContrastResult(contrast, scenario_of(task, contrast), refused=refused)
        if refused:
            results.append(blank)
            continue
        scored = score(contrast)
        labels, people = cohort.labels[tested], cohort.people[tested]
        results.append(
            replace(
                blank,
                scores=figures_of(task, labels, scored.among(tested), people, widening, config.seed),
                subjects=cohort.subjects[tested].tolist(),
                people=[] if np.array_equal(people, cohort.subjects[tested]) else people.tolist(),
                labels=labels.tolist(),
                predictions=scored.scores[tested].tolist(),
                probabilities=scored.probabilities[tested].tolist() if task.num_classes else [],
                ranked=[] if scored.ranked is None else scored.ranked[tested].tolist(),
                widening=widening,
            )
        )
    return results


def figures_of(
    task: Task, labels: np.ndarray, scored: Scored, people: np.ndarray, widening: float, seed: int
) -> dict[str, Estimate]:
    """The figures of a task's kind with 95 % intervals over people.

    Args:
        task: its kind and number of classes.
        labels: (N,), as `LabelRule.value` has them.
        scored: of the same rows.
        people: (N,).
        widening: of models that were refitted (`cross_validation_widening`).
        seed: of the bootstrap.
    """
    scores, probabilities = scored.scores, scored.probabilities
    if task.num_classes == 2:
        return classification_scores(labels, scores, probabilities, people, widening=widening, seed=seed)
    if task.num_classes:
        return multiclass_scores(labels, scores, probabilities, people, widening=widening, seed=seed)
    if task.kind == "survival":
        return survival_scores(labels, scores, people, widening=widening, seed=seed)
    return regression_scores(labels, scores, people, ranked=scored.ranked, widening=widening, seed=seed)


def weighted_figures(
    task: Task,
    labels: np.ndarray,
    scores: np.ndarray,
    probabilities: np.ndarray,
    ranked: np.ndarray | None = None,
) -> dict[str, Weighted]:
    """The figures of a task's kind as functions of weights of rows; none of a segmentation's.

    Args:
        task: its kind and number of classes.
        labels, scores, probabilities, ranked: of the same rows, as `Scored` has them.
    """
    if task.num_classes:
        figures = classification_figures if task.num_classes == 2 else multiclass_figures
        return figures(labels, scores, probabilities)
    if task.kind == "survival":
        return {"concordance": lambda weights: concordance(labels, scores, weights)}
    return regression_figures(labels, scores, ranked) if task.kind == "regression" else {}


def _too_few(task: Task, labels: np.ndarray, parts: np.ndarray | None, folds: int) -> str:
    """Why nothing is reported of so few subjects, if so."""
    if parts is None:
        return _short_of(task, labels, max(MIN_SUBJECTS, folds), "score")
    fitted = _short_of(task, labels[parts == "train"], 2, "train on")
    return fitted or _short_of(task, labels[parts == "test"], MIN_SUBJECTS, "score")


def _short_of(task: Task, labels: np.ndarray, wanted: int, purpose: str) -> str:
    if task.kind == "regression":
        few = len(labels) < wanted
        return f"{counted(len(labels), 'subject')} to {purpose}, and {wanted} are wanted" if few else ""
    if task.kind == "survival":
        events = int((labels > 0).sum())
        few = events < wanted
        return f"{counted(events, 'event')} to {purpose}, and {wanted} are wanted" if few else ""
    fewest = min(int((labels == value).sum()) for value in range(task.num_classes))
    return (
        f"a class has {counted(fewest, 'subject')} to {purpose}, and {wanted} are wanted"
        if fewest < wanted
        else ""
    )
