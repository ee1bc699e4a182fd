"""Nested draws: smaller ones are parts of larger ones, whoever else is there, and subjects are never parted."""

from __future__ import annotations

import numpy as np
import pytest

from mdae.errors import DataError
from mdae.evaluation.draws import training_draws

SUBJECTS = np.array(["anna", "anna", "ben", "carla", "dan", "eva", "eva"])
ROWS = np.array([0, 1, 2, 3, 4])


def drawn(
    rows: np.ndarray, sizes: tuple[str, ...], draws: int = 3, seed: int = 0
) -> dict[tuple[str, int], set[str]]:
    found = training_draws(rows, SUBJECTS, sizes, draws, seed)
    return {(draw.wanted, draw.draw): set(SUBJECTS[draw.rows]) for draw in found}


def test_they_are_nested_and_all_are_drawn_once():
    found = drawn(ROWS, ("1", "2", "all"))
    assert [(wanted, draw) for wanted, draw in found] == [
        *(("1", d) for d in range(3)),
        *(("2", d) for d in range(3)),
        ("all", 0),
    ]
    assert all(found["1", d] < found["2", d] for d in range(3))
    assert found["all", 0] == {"anna", "ben", "carla", "dan"}
    assert (
        len({frozenset(found["1", d]) for d in range(3)} | {frozenset(found["2", d]) for d in range(3)}) > 2
    )


def test_volumes_of_a_subject_are_drawn_together():
    for draw in training_draws(ROWS, SUBJECTS, ("2",), 5, 0):
        assert draw.size == 2 and (0 in draw.rows) == (1 in draw.rows)


def test_a_subject_that_is_not_there_changes_no_other_ones_place():
    whole, fewer = drawn(np.arange(7), ("1", "2", "3", "4")), drawn(np.array([0, 1, 2, 3]), ("1", "2", "3"))
    for draw in range(3):
        order = [next(iter(whole[str(n), draw] - whole.get((str(n - 1), draw), set()))) for n in range(1, 5)]
        kept = [name for name in order if name in {"anna", "ben", "carla"}]
        for number in range(1, len(kept) + 1):
            assert fewer[str(number), draw] == set(kept[:number])


def test_more_than_there_are_is_said():
    with pytest.raises(DataError, match="5 subjects to learn from are wanted, and there are 4"):
        list(training_draws(ROWS, SUBJECTS, ("5",), 1, 0))
