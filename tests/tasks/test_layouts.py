"""Tables and folders that say too little, too much, or two things at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mdae.errors import DataError
from mdae.evaluation.cohort import Cohort, data_set_of, find_cohort, split_parts
from mdae.tasks.catalogue import CATALOGUE
from mdae.tasks.layouts import Case, read_cases
from mdae.tasks.record import LabelRule, Task
from tests.tasks.trees import TREES, save

OWN = Task(
    name="own",
    title="own",
    layout="table",
    contrasts=("T1w",),
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
    assert cohort.excluded == {"no label that counts": 1, "rows that contradict each other in lesion": 1}


def test_cases_of_one_person_are_told_by_a_table(tmp_path):
    """As of nnU-Net's raw data sets, whose names do not tell: parts are by person, and a split may not divide one."""
    rows = [f"x_{number:03d}.nii,case{number},T1w,{number % 2}" for number in range(4)]
    (tmp_path / "own.csv").write_text("path,subject,contrast,lesion\n" + "\n".join(rows) + "\n")
    people = tmp_path / "people.csv"
    people.write_text("scan,subject\nx_000,A0001\nx_001,A0001\nx_002,ADNI-002-S-0001\nx_003,B\n")
    cohort = find_cohort(OWN, tmp_path / "own.csv", ("T1w",), people)
    assert cohort.people.tolist() == ["A0001", "A0001", "ADNI-002-S-0001", "B"]
    assert cohort.subjects.tolist() == ["case0", "case1", "case2", "case3"]
    split = tmp_path / "split.csv"
    split.write_text("subject,split\ncase0,train\ncase1,test\ncase2,train\ncase3,test\n")
    with pytest.raises(DataError, match="A0001 is in train and in test"):
        split_parts(split, cohort)


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


# -- data sets of one's own, as clinics keep them -----------------------------------------------------------------


def own_table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "own.csv").write_bytes(text.encode(encoding))
    return folder / "own.csv"


def test_a_table_is_read_whatever_its_separator_encoding_and_spelling(tmp_path):
    text = (
        "Path;Patient ID;Contrast;lesion\nä.nii; SUB-Müller ;T1w;1\nb.nii;Müller;FLAIR;1\nc.nii;A0001;T1w;0\n"
    )
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        cohort = find_cohort(OWN, own_table(tmp_path, text, encoding), ("T1w",))
        assert cohort.labels.tolist() == [0.0, 1.0] and len(cohort.cases[1].scans) == 2
        assert cohort.cases[1].scans["T1w"].path == tmp_path / "ä.nii"


def test_several_scans_of_a_subject_and_contrast_are_refused_rather_than_the_last_taken(tmp_path):
    rows = "a.nii,s1,T1w,1\nb.nii,s1,T1w,1\nc.nii,s2,T1w,0\n"
    with pytest.raises(DataError, match=r"subject s1 has 2 scans of T1w: a\.nii, b\.nii"):
        read_cases("table", own_table(tmp_path, "path,subject,contrast,lesion\n" + rows))
    masks = "a.nii,s1,T1w,m.nii\nb.nii,s1,T2w,n.nii\n"
    with pytest.raises(DataError, match="subject s1 has 2 masks"):
        read_cases("table", own_table(tmp_path, "path,subject,contrast,mask\n" + masks))
    with pytest.raises(DataError, match="1 rows have no subject"):
        read_cases("table", own_table(tmp_path, "path,subject,contrast\na.nii,,T1w\n"))


@pytest.mark.parametrize("word", ["None", "NA", "null", "N/A"])
def test_words_for_nothing_are_labels_where_they_are_declared_and_told_where_not(tmp_path, word):
    text = f"path,subject,contrast,grade\na,s1,T1w,II\nb,s2,T1w,{word}\nc,s3,T1w,IV\n"
    path = own_table(tmp_path, text)

    def cohort(**rule: object) -> Cohort:
        label = LabelRule(column="grade", **rule)  # type: ignore[arg-type]
        return find_cohort(replace(OWN, label=label), path, ("T1w",))

    assert cohort(positive=("II",), negative=(word,)).labels.tolist() == [1.0, 0.0]
    assert cohort(positive=(word,)).labels.tolist() == [0.0, 1.0, 0.0]
    undeclared = cohort(positive=("II",))
    assert undeclared.labels.tolist() == [1.0, 0.0] and undeclared.excluded == {f"label {word!r}": 1}


def bids_tree(folder: Path, people: str) -> Path:
    for name in ("A0001", "007", "ADNI002S0001", "B2"):
        save(folder / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", 1)
    (folder / "participants.tsv").write_text(people)
    return folder


def test_contradicting_participants_are_left_out_and_repeated_ones_are_not(tmp_path):
    people = "participant_id\tlesion\nsub-A0001\t1\nsub-A0001\t0\nsub-B2\t1\nsub-B2\t1\nsub-007\t0\n"
    cohort = find_cohort(replace(OWN, layout="bids"), bids_tree(tmp_path, people), ("T1w",))
    assert dict(zip(cohort.subjects, cohort.labels, strict=True)) == {"007": 0.0, "B2": 1.0}
    assert cohort.excluded == {"rows that contradict each other in lesion": 1}


def test_participants_spelled_otherwise_are_found_and_the_rest_is_told(tmp_path, caplog):
    people = "Participant_ID\tlesion\nSUB-A0001 \t1\n7\t0\nADNI_002_S_0001\t1\nsub-Q9\t0\n"
    cohort = find_cohort(replace(OWN, layout="bids"), bids_tree(tmp_path, people), ("T1w",))
    assert dict(zip(cohort.subjects, cohort.labels, strict=True)) == {
        "007": 0.0,
        "A0001": 1.0,
        "ADNI002S0001": 1.0,
    }
    assert "1 subject is matched as numbers, e.g. '7' to '007'" in caplog.text
    assert "1 of 4 rows have no scan, e.g. 'sub-Q9'" in caplog.text
    assert "1 subject has scans and no row, e.g. 'B2'" in caplog.text


@pytest.mark.parametrize(("layout", "column"), [("ucsf-pdgm", "ID"), ("tcga-gbm", "bcr_patient_barcode")])
def test_contradicting_rows_of_other_layouts_leave_the_subject_out(tmp_path, layout, column):
    root = TREES[layout](tmp_path / "tree")
    path = next(root.glob("*.csv"))
    table = pd.read_csv(path)
    twin = table.iloc[[0]].assign(**{name: "x" for name in table.columns if name != column})
    pd.concat([table, twin]).to_csv(path, index=False)
    task = next(task for task in CATALOGUE if task.layout == layout and task.label)
    assert task.label is not None
    cohort = find_cohort(task, root, task.contrasts[:1])
    assert cohort.excluded.get(f"rows that contradict each other in {task.label.column}", 0) == 1


def test_a_split_names_people_as_clinics_do(tmp_path, caplog):
    (tmp_path / "split.csv").write_text("Subject;Split\nSUB-A0001;train\n7;test\n")
    cohort = Cohort([Case("A0001"), Case("007"), Case("Q")], np.array([0.0, 1.0, 1.0]), {})
    assert split_parts(tmp_path / "split.csv", cohort).tolist() == ["train", "test", ""]
    assert "matched as numbers" in caplog.text


def test_a_data_set_is_known_by_its_scans_wherever_it_lies_and_whatever_is_labelled(tmp_path):
    def data_set(folder: str, effect: int, header: str = "lesion") -> str:
        save(tmp_path / folder / "a.nii.gz", effect)
        text = f"path,subject,contrast,{header}\na.nii.gz,s1,T1w,1\n"
        (tmp_path / folder / "own.csv").write_text(text)
        path = tmp_path / folder / "own.csv"
        return data_set_of("table", path, read_cases("table", path))

    first = data_set("here", 1)
    assert data_set("there", 1) == first == data_set("again", 1, "grade")
    assert data_set("clinic", 2) != first, "the same names, other scans"
    assert data_set_of("ucsf-pdgm", tmp_path, []) == "ucsf-pdgm"


# -- releases that differ -----------------------------------------------------------------------------------------


def test_follow_ups_of_ucsf_under_numbers_of_their_own_are_nobody_else(tmp_path):
    root = TREES["ucsf-pdgm"](tmp_path / "ucsf")
    path = next(root.glob("*.csv"))
    table = pd.read_csv(path)
    pd.concat(
        [table, table.iloc[[0]].assign(ID="UCSF-PDGM-138"), table.iloc[[1]].assign(ID="UCSF-PDGM-139")]
    ).to_csv(path, index=False)
    for number in (138, 139):
        save(root / f"UCSF-PDGM-{number:04d}_nifti" / f"UCSF-PDGM-{number:04d}_T1.nii.gz", number)
    found = {case.subject for case in read_cases("ucsf-pdgm", root)}
    assert "UCSF-PDGM-0139" in found and "UCSF-PDGM-0138" not in found


@pytest.mark.parametrize("layout", ["brats18", "brats23"])
def test_brats_may_be_unpacked(tmp_path, layout):
    root = TREES[layout](tmp_path / "tree")
    packed = read_cases(layout, root)
    for path in root.rglob("*.nii.gz"):
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    unpacked = read_cases(layout, root)
    assert [(c.subject, list(c.scans)) for c in unpacked] == [(c.subject, list(c.scans)) for c in packed]
    assert all(case.mask is not None and case.mask.suffix == ".nii" for case in unpacked)


def test_tcgas_table_is_the_one_with_the_columns_and_may_be_excel(tmp_path):
    root = TREES["tcga-gbm"](tmp_path / "tree")
    (root / "zzz-metadata.csv").write_text("Series UID,Collection\n1,TCGA-GBM\n")
    assert len(read_cases("tcga-gbm", root)) == 12
    path = root / "TCGA-CDR.csv"
    pd.read_csv(path).to_excel(root / "TCGA-CDR-SupplementalTableS1.xlsx", sheet_name="TCGA-CDR")
    path.unlink()
    assert len(read_cases("tcga-gbm", root)) == 12


def test_upenns_scans_with_a_skull_are_found_where_there_are_no_others(tmp_path):
    root = TREES["upenn-gbm"](tmp_path / "tree")
    for path in (root / "images_structural").rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_unstripped.nii.gz")))
    (root / "images_structural").rename(root / "images_structural_unstripped")
    assert len(read_cases("upenn-gbm", root)) == 24
