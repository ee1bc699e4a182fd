"""What a table tells of subjects, as numbers: found by a word of the column's name, gaps told, words apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdae.errors import DataError
from mdae.evaluation.features.clinical import clinical_features
from mdae.tasks.case import Case

ROWS = [
    {"Age at MRI": "40", "Gender": "M", "WHO CNS Grade": "4", "os_days": "1", "pfs_days": "2"},
    {"Age at MRI": "", "Gender": "F", "WHO CNS Grade": "2", "os_days": "1", "pfs_days": "2"},
    {"Age at MRI": "60.5", "Gender": "M", "WHO CNS Grade": "4", "os_days": "1", "pfs_days": "2"},
    {"Age at MRI": "90", "Gender": "unknown", "WHO CNS Grade": "3", "os_days": "1", "pfs_days": "2"},
]
CASES = [Case(f"A000{number}", row=row) for number, row in enumerate(ROWS)]


def columns(*names: str) -> np.ndarray:
    return clinical_features(CASES, names, None, Path("clinic.csv"))


def test_numbers_stand_as_they_are_and_what_is_lacking_is_told():
    assert columns("age").tolist() == [[0, 40], [1, 60.5], [0, 60.5], [0, 90]]
    assert columns("grade").tolist() == [[4], [2], [4], [3]]


def test_words_are_a_column_each_and_sex_is_found_as_gender():
    assert columns("sex").tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]  # not known, F, M


def test_columns_stand_side_by_side_and_two_that_a_name_fits_are_refused():
    assert columns("grade", "Age at MRI").shape == (4, 3)
    with pytest.raises(DataError, match="'days' may be os_days or pfs_days"):
        columns("days")
