"""Sex, age band and site, as tables of all kinds write them."""

from __future__ import annotations

import pytest

from mdae.tasks.attributes import attributes_of


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Sex": "M", "Age at MRI": "61", "ID": "UCSF-PDGM-004"}, {"sex": "male", "age": "60 to 74"}),
        ({"Gender": " F ", "Age_at_scan_years": "39.99"}, {"sex": "female", "age": "18 to 39"}),
        (
            {"participant_id": "sub-A0001", "age": "75", "site": "Köln"},
            {"age": "75 and over", "site": "Köln"},
        ),
        ({"Sex": "W", "Age at scan": "40"}, {"sex": "female", "age": "40 to 59"}),
        ({"Gender": "Männlich"}, {"sex": "male"}),
        ({"PatientSex": "woman", "PatientAge": "017Y"}, {"sex": "female", "age": "0 to 17"}),
        ({"sex": "O", "age": "unknown", "hospital": "n/a"}, {}),
        ({"age": "-1", "Age at diagnosis": "40"}, {}),
        ({"age": "-1", "ageYears": "40,5"}, {}),
        ({"Site ID": "", "scanner": "Prisma"}, {"site": "Prisma"}),
    ],
)
def test_a_row_tells(row, expected):
    assert attributes_of(row) == expected
