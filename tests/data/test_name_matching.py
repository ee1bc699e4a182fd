"""Two spellings of one name are paired where nobody else could be meant, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.data.name_matching import FILES, SCANS, SESSIONS, match_names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sub-001", "001"),
        ("SUB-001", "001"),
        (" A0001 ", "A0001"),
        ("Mu\u0308ller", "Müller"),
        ("a0001", "A0001"),
        ("7", "007"),
        ("7.0", "007"),
        ("sub-7", "007"),
        ("ADNI_002_S_0001", "ADNI002S0001"),
        ("002-S-0001", "002_S_0001"),
        ("sub-01", "siteA/01"),
        ("siteA/sub-01", "siteA/01"),
    ],
)
def test_one_person_under_two_spellings(theirs, ours):
    assert match_names([theirs], [ours, "other"]).pairs == {theirs: ours}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["7"], ["007", "07"]),
        (["7", "07"], ["007"]),
        (["a1"], ["A1", "A-1", "A_1"]),
        (["01"], ["siteA/01", "siteB/01"]),
        (["12"], ["1-2", "1_2"]),
        (["A7"], ["A007"]),
        (["", " "], [""]),
    ],
)
def test_what_could_be_two_is_not_guessed(theirs, ours):
    found = match_names(theirs, ours)
    if (theirs, ours) == (["a1"], ["A1", "A-1", "A_1"]):
        assert found.pairs == {"a1": "A1"}, "capitals are the smaller difference"
    else:
        assert found.pairs == {}


def test_exact_names_come_first_and_what_is_loose_is_told():
    found = match_names(["7", "08", "9"], ["7", "007", "008", "009"])
    assert found.pairs == {"7": "7", "08": "008", "9": "009"}
    assert found.loose == {"as numbers": [("08", "008"), ("9", "009")]} and found.ambiguous == []
    assert match_names(["007", "7"], ["007"]).ambiguous == ["7"]


def test_sessions_scans_and_files():
    assert match_names(["ses-01", "2"], ["01", "02"], SESSIONS).pairs == {"ses-01": "01", "2": "02"}
    assert match_names(["sub-01_T1w.nii.gz"], ["sub-01_T1w"], SCANS).pairs == {
        "sub-01_T1w.nii.gz": "sub-01_T1w"
    }
    assert match_names(["D:\\scans\\a.nii"], ["/data/a.nii", "/data/b.nii"], FILES).pairs == {
        "D:\\scans\\a.nii": "/data/a.nii"
    }
    assert match_names(["x/a.nii"], ["y/a.nii", "z/a.nii"], FILES).pairs == {}


NAMES = st.lists(st.text("0017-_ aAs.", min_size=1, max_size=5).filter(str.strip), max_size=8)


@settings(max_examples=200, deadline=None)
@given(NAMES, NAMES)
def test_nobody_gets_the_labels_of_two_by_a_loose_reading(theirs, ours):
    found = match_names(theirs, ours)
    assert set(found.pairs) <= set(theirs) and set(found.pairs.values()) <= set(ours)
    loose = [pair for pairs in found.loose.values() for pair in pairs]
    owners = [name for _, name in loose]
    assert len(owners) == len(set(owners))
    assert not set(found.ambiguous) & set(found.pairs)
