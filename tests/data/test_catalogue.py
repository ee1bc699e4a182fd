"""Finding scans, and splitting subjects."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdae.data.catalogue import split_by_subject
from mdae.data.sources import discover
from mdae.errors import DataError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_bids_gives_subject_session_and_contrast(tmp_path):
    tree(
        tmp_path,
        "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz",
        "sub-01/anat/sub-01_ce-gd_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.nii",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/.sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    found = [(e.scan_id, e.subject, e.session, e.contrast) for e in discover(tmp_path)]
    assert found == [
        ("sub-01_T1w", "01", "", "T1w"),
        ("sub-01_ce-gd_T1w", "01", "", "T1w-gd"),
        ("sub-02_ses-1_FLAIR", "02", "1", "FLAIR"),
    ]


def test_plain_folders(tmp_path):
    tree(tmp_path, "case 7.nii.gz", "BraTS_3/BraTS_3_t1.nii.gz", "BraTS_3/BraTS_3_seg.nii.gz")
    found = [(e.scan_id, e.subject, e.contrast) for e in discover(tmp_path)]
    assert found == [("BraTS_3__BraTS_3_t1", "BraTS_3", "t1"), ("case-7", "case 7", "")]


@pytest.mark.parametrize(
    "names",
    [
        ("a/sub-1_T1w.nii", "b/sub-1_T1w.nii"),
        ("a b.nii", "a-b.nii"),
        ("x.nii", "x.nii.gz"),
        ("x.nii", "X.nii"),
        ("头.nii", "脑.nii"),
        ("l" * 230 + "1.nii", "l" * 230 + "2.nii"),
    ],
)
def test_equal_names_stay_apart(tmp_path, names):
    tree(tmp_path, *names)
    ids = {entry.scan_id.lower() for entry in discover(tmp_path)}
    assert len(ids) == 2 and all(name.isascii() and len(name) < 230 for name in ids)


def test_the_first_subjects_of_two_bids_trees_are_two_people(tmp_path):
    tree(tmp_path, "ds1/sub-01/anat/sub-01_T1w.nii", "ds2/sub-01/anat/sub-01_T1w.nii")
    found = [(e.scan_id, e.subject) for e in discover(tmp_path)]
    assert found == [("ds1__sub-01_T1w", "ds1/01"), ("ds2__sub-01_T1w", "ds2/01")]
    assert [e.subject for e in discover(tmp_path / "ds1" / "sub-01")] == ["01"]


def test_capital_suffixes_and_single_files_are_taken(tmp_path):
    tree(tmp_path, "one.NII.GZ")
    assert [e.scan_id for e in discover(tmp_path)] == ["one"]
    assert [e.scan_id for e in discover(tmp_path / "one.NII.GZ")] == ["one"]


def test_a_loop_of_links_ends(tmp_path):
    tree(tmp_path, "a/x.nii")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(discover(tmp_path)) == 1


def test_nothing_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no scan to take there"):
        discover(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        discover(tmp_path / "nowhere")


@given(st.sets(st.text(min_size=1, max_size=4), min_size=2), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_depends_on_the_set_of_subjects_alone(subjects, fraction, seed):
    held_out = split_by_subject(sorted(subjects) * 2, fraction=fraction, seed=seed)
    assert held_out == split_by_subject(sorted(subjects, reverse=True), fraction=fraction, seed=seed)
    assert 0 < len(held_out) < len(subjects) and held_out < subjects


def test_nobody_is_held_out_when_not_wanted():
    assert split_by_subject(["a", "b"], fraction=0.0, seed=0) == frozenset()
    assert split_by_subject(["a"], fraction=0.5, seed=0) == frozenset()
