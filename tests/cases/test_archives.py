"""What people brought, whole: the folders of `cases` beside the real scans, and the same kinds made here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.data.dicom import NOBODY
from mdae.data.sources import Listing, list_source
from mdae.data.store import Store
from tests.cases.test_nothing_vanishes import phantom
from tests.data.test_dicom import head, write_series


@pytest.fixture(scope="session")
def cases(real_scans) -> Path:
    """The folder of small inputs that went wrong, which lies beside the real scans."""
    folder = real_scans.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no folder of cases beside the real scans")
    return folder


def prepared(source: Path, store: Path, capsys, *options: str) -> str:
    main(["prepare", str(source), str(store), "--workers", "1", "--spacing-mm", "8", "8", "8", *options])
    return str(capsys.readouterr().out)


def subjects(listing: Listing) -> set[str]:
    return {entry.subject for entry in listing.entries}


def test_labels_taken_as_scans(cases, tmp_path, capsys):
    said = prepared(cases / "labels_taken_as_scans" / "in", tmp_path / "s", capsys)
    assert "6 scans prepared" in said and "9 set aside" in said
    names = {Path(scan.source).name for scan in Store.open(tmp_path / "s").scans}
    assert names == {
        "BRATS_001.nii.gz",
        "BRATS_002.nii.gz",
        "ct.nii.gz",
        "imaging.nii.gz",
        "volume-0.nii",
        "T1.mgz",
    }


def test_contrast_folders_are_subjects(cases, tmp_path, capsys):
    said = prepared(cases / "contrast_folders_are_subjects" / "in", tmp_path / "s", capsys)
    assert said.startswith("3 subjects, from the file names, e.g. IXI002 (IXI-T1/IXI002-Guys-0828-T1.nii.gz)")
    scans = Store.open(tmp_path / "s").scans
    assert {scan.subject for scan in scans} == {"IXI002", "IXI012", "IXI013"} and len(scans) == 6


def test_subject_labels_cut(cases, tmp_path, capsys):
    prepared(cases / "subject_labels_cut" / "in", tmp_path / "s", capsys)
    main(["split", str(tmp_path / "s"), "--val", "0.34"])
    assert "2 train, 1 val subjects" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "s" / "splits" / "default.csv")
    assert sorted(table["subject"]) == [f"ADNI-002-S-000{number}" for number in (1, 2, 3)]


def test_left_out_is_never_told(cases, tmp_path, capsys):
    said = prepared(cases / "left_out_is_never_told" / "in" / "list.csv", tmp_path / "s", capsys)
    assert "1 scan prepared, 0 there already, 1 set aside" in said and "listed, but no such file" in said
    assert list(pd.read_csv(tmp_path / "s" / "set_aside.csv")["path"].map(lambda p: Path(p).name)) == [
        "typo.nii.gz"
    ]
    main(["check", str(tmp_path / "s")])
    assert "set aside: 1" in capsys.readouterr().out


def test_formats_silently_passed_over(cases, tmp_path, capsys):
    said = prepared(cases / "formats_silently_passed_over" / "in", tmp_path / "s", capsys)
    numbers = re.search(r"(\d+) scans prepared, 0 there already, (\d+) set aside", said)
    assert numbers and int(numbers[1]) + int(numbers[2]) == 4, "a.nii.gz, .mha, .nhdr and the pair"


def test_manifest_of_dicom(cases):
    listing = list_source(cases / "manifest_of_dicom" / "in" / "list.csv")
    assert [(entry.subject, len(entry.slices)) for entry in listing.entries] == [("S1", 14), ("S3", 0)]
    assert [row.reason for row in listing.left_out] == ["of a series that is listed already, of S1"]


def test_dicom_pseudonym(cases):
    assert subjects(list_source(cases / "dicom_pseudonym_anon0001" / "in")) == {"ANON0001"}


def test_messages(cases, tmp_path, capsys):
    source = Path(shutil.copytree(cases / "messages" / "in", tmp_path / "in"))
    (source / "annex.nii.gz").symlink_to(
        "../.git/annex/objects/xx/yy/MD5E-s123--abc.nii.gz/MD5E-s123--abc.nii.gz"
    )
    said = prepared(source, tmp_path / "s", capsys)
    assert "a volume with its channel first, of shape (1, 28, 30, 26)" in said
    assert "datalad get annex.nii.gz" in said and "datalad get pointer.nii.gz" in said
    said = prepared(source / "twice.csv", tmp_path / "t", capsys)
    assert "1 scan prepared" in said and "listed twice" in said


SOMEBODY = ("ANON0001", "anon_7", "ANONYM12", "Patient 3", "0012", "A0001", "Test-14", "Müller", "Unknown-4")
NO_ONE = (
    "",
    "ANONYMOUS",
    "Anonymized",
    "anon",
    "0000",
    "XXX",
    "UNKNOWN",
    "Patient^Name",
    "no name",
    "N/A",
    "-",
)


def test_a_pseudonym_is_somebody_and_an_exports_word_for_all_is_nobody(tmp_path):
    for patient in SOMEBODY:
        assert not NOBODY.fullmatch(patient), patient
    for patient in (*NO_ONE, "de-identified", "ANON PATIENT"):
        assert NOBODY.fullmatch(patient), patient
    for visit in ("v0", "v1"):
        write_series(tmp_path / visit, head(), np.diag([4.0, 4.0, 4.0, 1.0]), PatientID="ANON0001")
    assert subjects(list_source(tmp_path)) == {"ANON0001"}


def test_names_as_archives_have_them_go_all_the_way(tmp_path, capsys):
    """Prepare, check, split: names with hyphens, sites, blanks, umlauts; two sites with the same numbers."""
    source = tmp_path / "in"
    names = (
        "siteA/sub-01",
        "siteB/sub-01",
        "siteA/sub-A0001",
        "siteB/sub-ADNI-002-S-0001",
        "siteB/sub-Jürgen 7",
    )
    for number, name in enumerate(names):
        phantom(source / name / f"{Path(name).name}_T1w.nii.gz", number)
    said = prepared(source, tmp_path / "s", capsys)
    assert "5 subjects, from BIDS's names" in said and "5 scans prepared" in said
    people = {"siteA/01", "siteB/01", "siteA/A0001", "siteB/ADNI-002-S-0001", "siteB/Jürgen 7"}
    assert {scan.subject for scan in Store.open(tmp_path / "s").scans} == people
    main(["split", str(tmp_path / "s"), "--val", "0.2", "--test", "0.2"])
    table = pd.read_csv(tmp_path / "s" / "splits" / "default.csv")
    assert set(table["subject"]) == people and set(table["split"]) == {"train", "val", "test"}
    assert "0 scans prepared, 5 there already" in prepared(source, tmp_path / "s", capsys)
