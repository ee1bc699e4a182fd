"""Whose a scan is, in trees as archives have them; nothing here is made up of digits alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdae.cli import main
from mdae.data.sources import list_source
from mdae.data.subjects import warn_of
from mdae.errors import ConfigError, DataError
from mdae.evaluation.cohort import find_cohort
from mdae.report.labelled import write_task
from mdae.tasks.catalogue import find_task


def people(root: Path, *names: str, **options: object) -> dict[str, tuple[str, str, str]]:
    """Subject, session and contrast of each scan of a tree of empty files, by path."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    found = list_source(root, **options).entries
    return {e.path.relative_to(root).as_posix(): (e.subject, e.session, e.contrast) for e in found}


# Each kind of tree with whose its scans are: path, subject, session, contrast.
TREES = {
    "BIDS labels with hyphens and underscores": """
        sub-ADNI-002-S-0001/anat/sub-ADNI-002-S-0001_T1w.nii.gz | ADNI-002-S-0001 | | T1w
        sub-002_S_0001/ses-2020-01-01/anat/sub-002_S_0001_ses-2020-01-01_T1w.nii.gz | 002_S_0001 | 2020-01-01 | T1w
        sub-A0001/ses-m06/anat/sub-A0001_ses-m06_acq-ax_ce-gd_T1w.nii.gz | A0001 | m06 | T1w-gd""",
    "BIDS names without folders": """
        sub-002_S_0001_ses-2020-01-01_T1w.nii.gz | 002_S_0001 | 2020-01-01 | T1w
        sub-ADNI-002_S_0002_FLAIR.nii.gz | ADNI-002_S_0002 | | FLAIR
        sub-OAS1_0003_run-01_T1w.nii.gz | OAS1_0003 | | T1w""",
    "a BIDS folder that was renamed": """
        sub-new/anat/sub-old_T1w.nii.gz | new | | T1w
        sub-B/anat/sub-B_T1w.nii.gz | B | | T1w""",
    "BIDS of two sites": """
        siteA/sub-01/anat/sub-01_T1w.nii.gz | siteA/01 | | T1w
        siteB/sub-01/anat/sub-01_T1w.nii.gz | siteB/01 | | T1w""",
    "BIDS in one wrapper": """
        download/sub-01/anat/sub-01_T1w.nii.gz | 01 | | T1w
        download/sub-02/anat/sub-02_T1w.nii.gz | 02 | | T1w""",
    "BIDS by contrast first": """
        T1w/sub-01/sub-01_T1w.nii.gz | 01 | | T1w
        FLAIR/sub-01/sub-01_FLAIR.nii.gz | 01 | | FLAIR""",
    "contrast first, names with scanners": """
        IXI-T1/IXI002-Guys-0828-T1.nii.gz | IXI002 | | T1
        IXI-T1/IXI012-HH-1211-T1.nii.gz | IXI012 | | T1
        IXI-T2/IXI002-Guys-0828-T2.nii.gz | IXI002 | | T2
        IXI-T2/IXI013-HH-1212-T2.nii.gz | IXI013 | | T2""",
    "contrast first, names alone": """
        T1/A0001.nii.gz | A0001 | | T1
        T1/A0002.nii.gz | A0002 | | T1
        FLAIR/A0001.nii.gz | A0001 | | FLAIR
        FLAIR/A0002.nii.gz | A0002 | | FLAIR""",
    "contrast first, then subjects": """
        T1/P001/scan.nii.gz | P001 | | T1
        T1/P002/scan.nii.gz | P002 | | T1
        T2/P001/scan.nii.gz | P001 | | T2""",
    "a folder a subject": """
        A0001/T1.nii.gz | A0001 | | T1
        A0001/FLAIR.nii.gz | A0001 | | FLAIR
        B-17/T1.nii.gz | B-17 | | T1""",
    "a folder a subject, in a wrapper": """
        Training/A0001/T1.nii.gz | A0001 | | T1
        Training/A0002/T1.nii.gz | A0002 | | T1""",
    "two wrappers": """
        my study/nifti files/Müller, Anna/T1.nii.gz | Müller, Anna | | T1
        my study/nifti files/Roe Jane/T1.nii.gz | Roe Jane | | T1""",
    "a folder a subject with its name before": """
        BraTS_3/BraTS_3_t1.nii.gz | BraTS_3 | | t1
        BraTS_3/BraTS_3_t1ce.nii.gz | BraTS_3 | | t1ce
        BraTS_4/BraTS_4_t1.nii.gz | BraTS_4 | | t1""",
    "groups of subject folders": """
        HGG/Brats18_2013_2_1/Brats18_2013_2_1_t1.nii.gz | Brats18_2013_2_1 | | t1
        HGG/Brats18_2013_3_1/Brats18_2013_3_1_t1.nii.gz | Brats18_2013_3_1 | | t1
        LGG/Brats18_TCIA_9_1/Brats18_TCIA_9_1_t1.nii.gz | Brats18_TCIA_9_1 | | t1""",
    "sites with the same numbers": """
        siteA/P001/T1.nii.gz | siteA/P001 | | T1
        siteB/P001/T1.nii.gz | siteB/P001 | | T1
        siteB/P002/T1.nii.gz | siteB/P002 | | T1""",
    "site, subject, session": """
        siteA/A0001/2020-01-01/T1.nii.gz | A0001 | 2020-01-01 | T1
        siteA/A0001/2021-02-03/T1.nii.gz | A0001 | 2021-02-03 | T1
        siteB/B0001/2020-01-01/T1.nii.gz | B0001 | 2020-01-01 | T1""",
    "subject, session by number": """
        P001/visit1/T1.nii.gz | P001 | visit1 | T1
        P001/visit2/T1.nii.gz | P001 | visit2 | T1
        P002/visit1/T1.nii.gz | P002 | visit1 | T1""",
    "session first": """
        baseline/P001/T1.nii.gz | P001 | baseline | T1
        followup/P001/T1.nii.gz | P001 | followup | T1
        baseline/P002/T1.nii.gz | P002 | baseline | T1""",
    "ADNI as LONI gives it": """
        ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/S13408/x_I13722.nii | 002_S_0295 | 2006-04-18_08_20_30.0 | ?
        ADNI/002_S_0295/MP-RAGE/2007-04-18_08_20_30.0/S18402/x_I45112.nii | 002_S_0295 | 2007-04-18_08_20_30.0 | ?
        ADNI/011_S_0003/MP-RAGE/2006-05-01_10_20_30.0/S13501/x_I13800.nii | 011_S_0003 | 2006-05-01_10_20_30.0 | ?""",
    "ids that might be visits": """
        siteA/D001/T1.nii.gz | D001 | | T1
        siteA/D002/T1.nii.gz | D002 | | T1
        siteB/D003/T1.nii.gz | D003 | | T1""",
    "ids that might be dates": """
        20101112/T1.nii.gz | 20101112 | | T1
        20101113/T1.nii.gz | 20101113 | | T1""",
    "the visits of one subject": """
        2020-01-01/T1.nii.gz | SOURCE | 2020-01-01 | T1
        2021-02-03/T1.nii.gz | SOURCE | 2021-02-03 | T1""",
    "FreeSurfer": """
        bert/mri/T1.mgz | bert | | T1
        bert/mri/brainmask.mgz | bert | | brainmask
        ernie/mri/orig.mgz | ernie | | orig
        fsaverage/mri/orig.mgz | fsaverage | | orig
        fsaverage/mri/orig/001.mgz | fsaverage | | orig-001
        fsaverage/mri/orig/002.mgz | fsaverage | | orig-002""",
    "FreeSurfer among other trees": """
        fs/s1/mri/T1.mgz | s1 | | T1
        sub-01/anat/sub-01_T1w.nii.gz | 01 | | T1w
        lits/volume-0.nii | lits | | volume-0
        msd/imagesTr/BRATS_001.nii.gz | BRATS_001 | |""",
    "FreeSurfer's subjects of two sites": """
        Zürich/P001/mri/orig/001.mgz | Zürich/P001 | | orig-001
        Zürich/P001/mri/nu.mgz | Zürich/P001 | | nu
        site B/P001/mri/brainmask.mgz | site B/P001 | | brainmask""",
    "one subject of FreeSurfer": """
        mri/T1.mgz | SOURCE | | T1
        mri/orig.mgz | SOURCE | | orig
        mri/orig/001.mgz | SOURCE | | orig-001""",
    "a folder mri that is not FreeSurfer's": """
        Trial/mri/P0011.mgz | P0011 | | mri
        Trial/mri/P0012.mgz | P0012 | | mri""",
    "flat, a file a subject": """
        case 7.nii.gz | case 7 | |
        Doe_John.nii.gz | Doe_John | |""",
    "flat, contrasts at the end": """
        P001_T1.nii.gz | P001 | | T1
        P001_FLAIR.nii.gz | P001 | | FLAIR
        P002_T1.nii.gz | P002 | | T1""",
    "flat, visits by date": """
        HD0001_20200101_T1.nii.gz | HD0001 | 20200101 | T1
        HD0001_20210101_T1.nii.gz | HD0001 | 20210101 | T1
        HD0002_20200505_T1.nii.gz | HD0002 | 20200505 | T1""",
    "flat files of groups": """
        AD/p001.nii.gz | p001 | |
        AD/p002.nii.gz | p002 | |
        CN/p101.nii.gz | p101 | |
        CN/p102.nii.gz | p102 | |""",
    "flat files of sites with the same numbers": """
        site1/001.nii.gz | site1/001 | |
        site1/002.nii.gz | site1/002 | |
        site2/001.nii.gz | site2/001 | |
        site2/003.nii.gz | site2/003 | |""",
    "nnU-Net": """
        Dataset005_X/imagesTr/A_001_0000.nii.gz | A_001 | | 0000
        Dataset005_X/imagesTr/A_001_0001.nii.gz | A_001 | | 0001
        Dataset005_X/imagesTs/A_002_0000.nii.gz | A_002 | |""",
    "MSD": """
        Task09/imagesTr/spleen_2.nii.gz | spleen_2 | |
        Task09/imagesTs/spleen_17.nii.gz | spleen_17 | |""",
    "flat with channels": """
        la_003_0000.nii.gz | la_003 | | 0000
        la_003_0001.nii.gz | la_003 | | 0001
        la_004_0000.nii.gz | la_004 | | 0000
        la_004_0001.nii.gz | la_004 | | 0001""",
    "flat numbers of four digits are no channels": """
        OAS1_0001.nii.gz | OAS1_0001 | |
        OAS1_0002.nii.gz | OAS1_0002 | |""",
    "TotalSegmentator": """
        s0000/ct.nii.gz | s0000 | | ct
        s0011/ct.nii.gz | s0011 | | ct""",
    "LiTS": """
        Training Batch 1/volume-0.nii | volume-0 | |
        Training Batch 1/volume-10.nii | volume-10 | |
        Training Batch 2/volume-28.nii | volume-28 | |""",
    "one subject's folder": """
        T1.nii.gz | SOURCE | | T1
        FLAIR.nii.gz | SOURCE | | FLAIR""",
    "names that look like visits": """
        M12_T1.nii.gz | M12 | | T1
        F03_T1.nii.gz | F03 | | T1""",
    "OASIS": """
        OAS1_0001_MR1/RAW/OAS1_0001_MR1_mpr-1_anon.nii | OAS1_0001 | MR1 | ?
        OAS1_0001_MR2/RAW/OAS1_0001_MR2_mpr-1_anon.nii | OAS1_0001 | MR2 | ?
        OAS1_0002_MR1/RAW/OAS1_0002_MR1_mpr-1_anon.nii | OAS1_0002 | MR1 | ?""",
    "ADNI in one folder": """
        ADNI_002_S_0295_MR_MPR__GradWarp_Br_20081001114556321_S18402_I118671.nii | ADNI_002_S_0295 | | MR-MPR
        ADNI_002_S_0295_MR_MPR__GradWarp_Br_20071001114556321_S18401_I118670.nii | ADNI_002_S_0295 | | MR-MPR
        ADNI_011_S_0003_MR_MPR_Br_20071001114556321_S18300_I118600.nii | ADNI_011_S_0003 | | MR-MPR""",
    "hospital, year, subject": """
        HospitalA/2019/P0001/T1.nii.gz | P0001 | 2019 | T1
        HospitalA/2020/P0002/T1.nii.gz | P0002 | 2020 | T1
        HospitalB/2019/P0003/T1.nii.gz | P0003 | 2019 | T1""",
    "images in a folder of each subject": """
        P001/images/T1.nii.gz | P001 | | T1
        P002/images/T1.nii.gz | P002 | | T1""",
    "images in one folder": """
        images/A01.nii.gz | A01 | |
        images/A02.nii.gz | A02 | |""",
    "WMH challenge": """
        training/Utrecht/0/pre/FLAIR.nii.gz | 0 | | FLAIR
        training/Utrecht/2/pre/FLAIR.nii.gz | 2 | | FLAIR
        training/Amsterdam/GE3T/100/pre/T1.nii.gz | 100 | | T1""",
    "two split folders with the same numbers": """
        train/001.nii.gz | train/001 | |
        train/002.nii.gz | train/002 | |
        test/001.nii.gz | test/001 | |""",
    "files in folders of their own name": """
        BraTS-GLI-00001/BraTS-GLI-00001-t1n.nii/x1.nii | BraTS-GLI-00001 | | ?
        BraTS-GLI-00002/BraTS-GLI-00002-t1n.nii/x2.nii | BraTS-GLI-00002 | | ?""",
}


@pytest.mark.parametrize("kind", TREES)
def test_trees_as_archives_have_them(tmp_path, kind):
    rows = [[cell.strip() for cell in line.split("|")] for line in TREES[kind].strip().splitlines()]
    found = people(tmp_path, *(row[0] for row in rows))
    for path, subject, session, contrast in rows:
        told = found[path]
        expected = (
            subject.replace("SOURCE", tmp_path.name),
            session,
            contrast if contrast != "?" else told[2],
        )
        assert told == expected, path
    assert len(found) == len(rows)


DATA_SETS = {
    "kits": "case_{0:05d}/imaging.nii.gz",
    "LiTS": "volume-{1}.nii",
    "Task04_Hippocampus": "imagesTr/hippocampus_{0:03d}.nii.gz",
    "IXI": "IXI-T1/IXI{0:03d}-Guys-08{1}-T1.nii.gz | IXI-T2/IXI{0:03d}-Guys-08{1}-T2.nii.gz",
    "UPENN-GBM": "images_structural/UPENN-GBM-{0:05d}_11/UPENN-GBM-{0:05d}_11_T1.nii.gz",
    "OASIS": "OAS1_{0:04d}_MR1/PROCESSED/MPRAGE/T88_111/OAS1_{0:04d}_MR1_mpr_n4.nii.gz",
    "brains": "sub-A{0:04d}/ses-m06/anat/sub-A{0:04d}_ses-m06_T1w.nii.gz",
}


@pytest.mark.parametrize("kept", [2, 3, len(DATA_SETS)])
def test_a_folder_of_data_sets_is_read_one_by_one(tmp_path, kept):
    """Each has levels and ids of its own; read together, a whole set was once one subject."""
    for number, names in enumerate(itertools.combinations(DATA_SETS, kept)):
        files = [
            f"{name}/{pattern.strip().format(person, 10 + person)}"
            for name in names
            for pattern in DATA_SETS[name].split("|")
            for person in (1, 2, 13)
        ]
        found = people(tmp_path / str(number), *files)
        assert len(found) == len(files)
        for name in names:
            assert len({who[0] for path, who in found.items() if path.startswith(f"{name}/")}) == 3, name


def test_people_whose_scans_are_numbered_are_no_data_sets(tmp_path):
    found = people(
        tmp_path,
        *(f"Müller/IM{i:04d}.nii.gz" for i in range(3)),
        *(f"Schmidt/se{i:03d}.nii.gz" for i in range(4)),
    )
    assert {who[0] for who in found.values()} == {"Müller", "Schmidt"}


def test_the_reading_is_said_in_one_line(tmp_path):
    people(tmp_path, "IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI-T2/IXI013-HH-1212-T2.nii.gz")
    line = list_source(tmp_path).reading.line()
    assert line == "2 subjects, from the file names, e.g. IXI002 (IXI-T1/IXI002-Guys-0828-T1.nii.gz)"


NAMES = ("siteA/P001/A0001-x_T1.nii.gz", "siteA/P001/A0001-y_T1.nii.gz", "siteB/P002/A0002-z_T1.nii.gz")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("folder", ["P001", "P001", "P002"]),
        ("name", ["A0001-x", "A0001-y", "A0002-z"]),
        (r"(A\d+)-", ["A0001", "A0001", "A0002"]),
        (r"site\w", ["siteA", "siteA", "siteB"]),
    ],
)
def test_a_user_may_say_what_tells_the_subject(tmp_path, rule, expected):
    found = people(tmp_path, *NAMES, subject_from=rule)
    assert [found[name][0] for name in NAMES] == expected


def test_scans_in_which_a_rule_finds_nobody_are_left_out(tmp_path):
    people(tmp_path, *NAMES)
    listing = list_source(tmp_path, subject_from=r"(P001)")
    assert len(listing.entries) == 2
    (row,) = listing.left_out
    assert row.path.endswith("A0002-z_T1.nii.gz") and "no subject in its path" in row.reason and row.mend
    with pytest.raises(ConfigError, match="no regular expression"):
        list_source(tmp_path, subject_from="(P001")


def test_a_table_of_subjects_comes_first(tmp_path, caplog):
    people(
        tmp_path / "in",
        "imagesTr/x_001_0000.nii.gz",
        "imagesTr/x_002_0000.nii.gz",
        "imagesTr/x_003_0000.nii.gz",
    )
    table = tmp_path / "subjects.csv"
    table.write_text("scan,subject\nx_001,0007\nx_002,0007\nx_009,0009\n")
    listing = list_source(tmp_path / "in", subjects=table)
    assert [entry.subject for entry in listing.entries] == ["0007", "0007", "x_003"]
    assert "1 of 3 scans are not in" in caplog.text and "1 rows of" in caplog.text
    table.write_text("scan,subject\nx_001,0007\nx_001,0008\n")
    with pytest.raises(DataError, match="scan x_001 is of 0007 and of 0008"):
        list_source(tmp_path / "in", subjects=table)
    table.write_text("scan,subject\nother,0007\n")
    with pytest.raises(DataError, match="none of 3 scans is in it"):
        list_source(tmp_path / "in", subjects=table)
    table.write_text("image,subject\nother,0007\n")
    with pytest.raises(DataError, match="no column 'scan'"):
        list_source(tmp_path / "in", subjects=table)


def test_a_table_of_subjects_may_name_the_cases_of_a_listed_data_set(tmp_path):
    scans = {f"Fall {n}": (tmp_path / f"{n}" / "T2.nii.gz", tmp_path / f"{n}" / "seg.nii.gz") for n in (7, 8)}
    for path in itertools.chain(*scans.values()):
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    write_task(tmp_path / "task", "T2w", scans, {"labels": {"background": 0, "a": 1}})
    (tmp_path / "people.csv").write_text("scan;subject\nFall 7;Müller\nFall 8;Müller\n")
    task = find_task(str(tmp_path / "task"))
    cohort = find_cohort(task, tmp_path / "task", ("T2w",), tmp_path / "people.csv")
    assert cohort.people.tolist() == ["Müller", "Müller"]


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"], True),
        (["A0001_01", "A0001_02", "A0002_01"], True),
        (["LIDC-IDRI-0003_R_2", "LIDC-IDRI-0003_R_3", "LIDC-IDRI-0004_R_1", "LIDC-IDRI-0005_R_1"], True),
        (["hippocampus_001", "hippocampus_003", "hippocampus_004"], False),
        (["OAS1_0001", "OAS1_0002", "OAS1_0003"], False),
    ],
)
def test_names_that_may_be_visits_of_one_patient_are_warned_of(tmp_path, caplog, names, warned):
    people(tmp_path, *(f"{name}/t1.nii.gz" for name in names))
    warn_of(list_source(tmp_path).reading, tmp_path)
    assert ("may be on both sides" in caplog.text) == warned
    if warned:  # and the mend that is named mends it
        rule = caplog.text.split("--subject-from '")[1].split("'")[0]
        caplog.clear()
        mended = list_source(tmp_path, subject_from=rule)
        warn_of(mended.reading, tmp_path)
        assert not caplog.text and mended.reading.num_subjects < len(names)


def test_one_subject_is_said_loudly(tmp_path, caplog):
    people(tmp_path, "A0001/T1.nii.gz", "A0001/FLAIR.nii.gz")
    warn_of(list_source(tmp_path).reading, tmp_path)
    assert "all 2 scans are of one subject, A0001" in caplog.text and "--subject-from" in caplog.text


@pytest.mark.parametrize(("name", "cases", "maps"), [("hippocampus", 330, 200), ("lidc-nodules", 860, 860)])
def test_real_cases_of_nnunet(real_scans, capsys, tmp_path, name, cases, maps):
    main(["prepare", str(real_scans / name), str(tmp_path / "store"), "--dry-run"])
    assert (
        f"{cases} scans of {cases} cases would be prepared, {maps} label maps left out"
        in capsys.readouterr().out
    )
