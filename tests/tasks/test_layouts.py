"""Tables and folders that say too little, too much, or two things at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mdae.errors import DataError
from mdae.evaluation.cohort import find_cohort
from mdae.tasks.layouts import read_cases
from mdae.tasks.record import LabelRule, Task
from tests.tasks.trees import TREES

OWN = Task(
    name="own",
    title="own",
    layout="table",
    modalities=("T1w",),
    label=LabelRule(column="lesion", positive=("1",)),
)


def test_who_has_no_label_or_two_is_left_out_of_a_table_of_ones_own(tmp_path):
    rows = [
        "a,s1,T1w,1",
        "b,s2,T1w,",
        "c,s3,T1w,0",
        "d,s3,FLAIR,",
        "e,s4,T1w,0",
        "f,s4,FLAIR,1",
        "g,s4,T2w,0",
    ]
    (tmp_path / "own.csv").write_text("path,subject,contrast,lesion\n" + "\n".join(rows) + "\n")
    cohort = find_cohort(OWN, tmp_path / "own.csv", ("T1w",))
    assert [case.subject for case in cohort.cases] == ["s1", "s3"] and cohort.labels.tolist() == [1.0, 0.0]
    assert cohort.left_out == {"no label that counts": 2}


def test_a_table_without_any_label_is_one_line(tmp_path):
    (tmp_path / "own.csv").write_text("path,subject,contrast,lesion\na,s1,T1w,\nb,s2,T1w,\n")
    with pytest.raises(DataError, match="nobody is left for own: 2 with no label that counts"):
        find_cohort(OWN, tmp_path / "own.csv", ("T1w",))


def test_a_subject_in_two_folders_is_one_line(tmp_path):
    root = TREES["ucsf-pdgm"](tmp_path / "ucsf")
    folder = sorted(root.glob("*_nifti"))[0]
    shutil.copytree(folder, root / "again" / folder.name)
    with pytest.raises(DataError, match="subject UCSF-PDGM-0000 is in it twice"):
        read_cases("ucsf-pdgm", root)


def test_validation_data_of_brats23_are_not_in_its_cohort(tmp_path):
    root = TREES["brats23"](tmp_path / "brats23")
    before = [case.subject for case in read_cases("brats23", root)]
    folder = sorted(root.rglob("BraTS-GLI-*-000"))[0]
    shutil.copytree(
        folder, root / "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData" / "BraTS-GLI-90000-000"
    )
    assert [case.subject for case in read_cases("brats23", root)] == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channel_names": {"T1": "T1"}}, "not nnU-Net's description"),
        ({"dataset": {"a": {"images": ["a.nii.gz"]}}}, "does not list the images and the label"),
        ({"dataset": {"a": {"images": ["a", "b"], "label": "c"}}}, "1 images a case are wanted"),
    ],
)
def test_a_raw_data_set_that_is_none_is_one_line(tmp_path: Path, changes, said):
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(about | changes))
    with pytest.raises(DataError, match=said):
        read_cases("nnunet", tmp_path)
