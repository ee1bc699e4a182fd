"""Trials count by weights and question, whatever anything is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mdae.evaluation.results.evaluation_log import count_trial, question_of
from mdae.tasks.record import LabelRule
from tests.evaluation.cells import made_up_task

TASK = made_up_task()


def trial(folder: Path, subjects: str, weights: str = "w", encoder: str = "ours", **settings: object) -> int:
    return count_trial(
        folder,
        question=question_of(TASK),
        weights=weights,
        encoder=encoder,
        subjects=list(subjects),
        settings={"pool": "mean", **settings},
    )


def test_three_poolings_under_three_names_are_three_trials(tmp_path):
    found = [trial(tmp_path, "abc", encoder=name, pool=name) for name in ("mean", "max", "both")]
    assert found == [1, 2, 3]
    assert trial(tmp_path, "abc", encoder="mean again", pool="mean") == 3, (
        "the same settings are no other trial"
    )


def test_other_weights_begin_another_count(tmp_path):
    tried = [trial(tmp_path, "abc", weights=name, pool=pool) for name, pool in ("vm", "wx", "wx", "wm")]
    assert tried == [1, 1, 1, 2]


def test_subjects_that_overlap_count_and_others_do_not(tmp_path):
    assert trial(tmp_path, "abcd") == 1
    assert trial(tmp_path, "bcde", pool="max") == 2, "leaving somebody out makes no new test set"
    assert trial(tmp_path, "xyz", pool="both") == 1
    assert trial(tmp_path, "abcd", pool="other") == 3


def test_a_task_is_known_by_what_it_asks():
    assert question_of(TASK) == question_of(replace(TASK, name="other", title="renamed"))
    assert question_of(TASK) != question_of(replace(TASK, label=LabelRule(column="y", positive=("1",))))
