"""A store stays true to its source: renamed, deleted, copied, relisted and badly named scans."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mdae.cli import main
from mdae.data.prepare import PrepareConfig, PrepareSummary, prepare
from mdae.data.splits import SplitConfig, split
from mdae.data.store import Store
from mdae.errors import DataError
from tests.conftest import COARSE
from tests.data.test_sources import scans


def run(source: Path, store: Path, **changes: object) -> PrepareSummary:
    options = {"preprocessing": COARSE, "workers": 1, **changes}
    return prepare(PrepareConfig(source=source, store=store, **options))


def subjects(store: Path) -> list[str]:
    opened = Store.open(store)
    (store / "manifest.jsonl").unlink()
    assert [s.subject for s in Store.open(store).scans] == [s.subject for s in opened.scans], (
        "volumes say the same"
    )
    opened.write_manifest()
    return [scan.subject for scan in opened.scans]


def test_renaming_a_subjects_folder_takes(tmp_path, caplog):
    source = scans(tmp_path / "in", "A0001/T1.nii.gz", "A0002/T1.nii.gz")
    run(source, tmp_path / "s")
    (source / "A0001").rename(source / "Müller")
    summary = run(source, tmp_path / "s")
    assert subjects(tmp_path / "s") == ["A0002", "Müller"] and not summary.set_aside
    assert "1 scan has new names" in caplog.text


def test_a_renamed_bids_folder_takes_though_its_files_keep_their_names(tmp_path):
    source = scans(tmp_path / "in", "sub-old/sub-old_T1w.nii.gz", "sub-B/sub-B_T1w.nii.gz")
    run(source, tmp_path / "s")
    (source / "sub-old").rename(source / "sub-new")
    assert run(source, tmp_path / "s").set_aside == []
    assert sorted(subjects(tmp_path / "s")) == ["B", "new"]


def test_another_reading_of_subjects_takes_without_preparing_again(tmp_path):
    source = scans(tmp_path / "in", "imagesTr/x_001_0000.nii.gz", "imagesTr/x_002_0000.nii.gz")
    run(source, tmp_path / "s")
    (tmp_path / "t.csv").write_text("scan,subject\nx_001,007\nx_002,007\n")
    summary = run(source, tmp_path / "s", subjects=tmp_path / "t.csv")
    assert (summary.prepared, summary.unchanged) == (0, 2) and subjects(tmp_path / "s") == ["007", "007"]


def test_a_scan_that_is_gone_is_told_of_and_pruned_when_wanted(tmp_path, caplog):
    source = scans(tmp_path / "in", "A0001/T1.nii.gz", "A0002/T1.nii.gz")
    other = scans(tmp_path / "other", "B/T1.nii.gz", "C/FLAIR.nii.gz", "D/T1.nii.gz")
    run(source, tmp_path / "s")
    shutil.rmtree(other / "B")  # the voxels of A0001
    run(other, tmp_path / "s")
    shutil.rmtree(source / "A0001")
    run(source, tmp_path / "s")
    assert "1 scan of the store is no longer taken from" in caplog.text and "--prune" in caplog.text
    assert "A0001" in subjects(tmp_path / "s")
    run(source, tmp_path / "s", prune=True)
    assert subjects(tmp_path / "s") == ["A0002", "D"], "what other sources hold stays (C is a copy of A0002)"
    run(other, tmp_path / "s", prune=True, contrasts=("FLAIR",))
    assert subjects(tmp_path / "s") == ["A0002", "D"], "a filter deletes nothing"


def test_a_source_that_holds_no_scan_any_more_is_pruned(tmp_path, capsys, caplog):
    source = scans(tmp_path / "in", "A0001/T1.nii.gz", "Müller/T1.nii.gz")
    run(source, tmp_path / "s")
    other = scans(tmp_path / "other", "X1/T1.nii.gz", "X2/T1.nii.gz", "X 4/T1.nii.gz")
    run(other, tmp_path / "s")  # two are copies
    split(SplitConfig(store=tmp_path / "s", val=0.4))
    for name in ("A0001", "Müller"):
        shutil.rmtree(source / name)
    with pytest.raises(DataError, match="no scan to take there"):
        run(source, tmp_path / "s")
    with pytest.raises(DataError, match="no scan to take there"):
        run(source, tmp_path / "new", prune=True)
    assert not (tmp_path / "new").exists()
    coarse = ["--workers", "1", "--spacing-mm", "8", "8", "8"]
    main(["prepare", str(source), str(tmp_path / "s"), "--prune", *coarse])
    said = capsys.readouterr().out
    assert "no scan to take" in said and "2 removed" in said
    assert subjects(tmp_path / "s") == ["X 4"]
    stale = "names 2 subjects not in the store, e.g. A0001"
    assert stale in caplog.text
    main(["check", str(tmp_path / "s")])
    assert stale in capsys.readouterr().out
    for name in ("X1", "X2", "X 4"):
        shutil.rmtree(other / name)
    main(["prepare", str(other), str(tmp_path / "s"), "--prune", *coarse])
    assert "1 removed" in capsys.readouterr().out, "an empty store is what was asked for"
    assert not list((tmp_path / "s" / "volumes").glob("*.b2nd"))


def test_a_manifest_without_rows_any_more_is_pruned(tmp_path):
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text("path,subject\nin/a.nii.gz,A0001\n")
    run(table, tmp_path / "s")
    table.write_text("path,subject\n")
    assert run(table, tmp_path / "s", prune=True).pruned == 1


def test_a_row_that_left_the_manifest_is_gone_though_its_file_is_there(tmp_path):
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text("path,subject\nin/a.nii.gz,A\nin/b.nii.gz,B\n")
    run(table, tmp_path / "s")
    table.write_text("path,subject\nin/b.nii.gz,B\n")
    run(table, tmp_path / "s", prune=True)
    assert subjects(tmp_path / "s") == ["B"]


def test_a_copy_of_what_is_gone_is_no_copy(tmp_path):
    source = scans(tmp_path / "in", "A0001/T1.nii.gz", "B/T1.nii.gz")
    shutil.copy(source / "A0001" / "T1.nii.gz", source / "B" / "T1.nii.gz")
    (row,) = run(source, tmp_path / "s").set_aside
    assert row.reason == f"the same voxels as {source / 'A0001' / 'T1.nii.gz'}"
    assert len(run(source, tmp_path / "s").set_aside) == 1, "it is remembered"
    shutil.rmtree(source / "A0001")
    assert run(source, tmp_path / "s").prepared == 1
    assert subjects(tmp_path / "s") == ["B"]


def test_a_file_is_no_copy_of_itself(tmp_path, capsys):
    scans(tmp_path / "in", "siteA/P001/T1.nii.gz", "siteB/P002/T1.nii.gz")
    (tmp_path / "twice.csv").write_text("path\nin/siteA/P001/T1.nii.gz\nin/siteA/../siteA/P001/T1.nii.gz\n")
    (row,) = run(tmp_path / "twice.csv", tmp_path / "s").set_aside
    assert row.reason == "listed twice"
    for source in ("in/siteA", "in", "in/siteB/P002"):  # the same files under other names
        main(
            [
                "prepare",
                str(tmp_path / source),
                str(tmp_path / "s"),
                "--workers",
                "1",
                "--spacing-mm",
                "8",
                "8",
                "8",
            ]
        )
        assert "0 set aside" in capsys.readouterr().out
    assert len(subjects(tmp_path / "s")) == 2


def test_a_file_in_rows_of_two_people_counts_once_and_is_told(tmp_path):
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    (tmp_path / "t.csv").write_text("path,subject\nin/a.nii.gz,A\nin/a.nii.gz,B\nin/b.nii.gz,B\n")
    (row,) = run(tmp_path / "t.csv", tmp_path / "s").set_aside
    assert row.reason == "listed twice, of A and of B: the first row counts"
    assert subjects(tmp_path / "s") == ["A", "B"]


def test_what_other_sources_set_aside_stays_in_the_table(tmp_path):
    one, two = (
        scans(tmp_path / "one", "A.nii", "bad.nii"),
        scans(tmp_path / "two", "x.nii", "C.nii", "bad2.nii"),
    )
    (two / "x.nii").unlink()
    (one / "bad.nii").write_bytes(b"no")
    (two / "bad2.nii").write_bytes(b"no")
    for source in (one, two, one):
        run(source, tmp_path / "s")
    table = pd.read_csv(tmp_path / "s" / "set_aside.csv")
    assert sorted(Path(path).name for path in table["path"]) == ["bad.nii", "bad2.nii"]


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_a_name_that_is_no_utf8_is_taken_and_told(tmp_path, capsys):
    source = scans(tmp_path / "in", "sub-A/sub-A_T1w.nii.gz", "sub-B/sub-B_T1w.nii.gz", "sub-C/broken.nii.gz")
    (source / "sub-C" / "broken.nii.gz").write_bytes(b"\x1f\x8b")
    for name in ("sub-B", "sub-C"):
        before = os.fsencode(source / name)
        os.rename(before, before + b"-\xe9")  # noqa: PTH104
    for _ in range(2):
        main(["prepare", str(source), str(tmp_path / "s"), "--workers", "1", "--spacing-mm", "8", "8", "8"])
        assert "1 set aside" in capsys.readouterr().out
    main(["check", str(tmp_path / "s")])
    assert sorted(subjects(tmp_path / "s")) == ["A", "B-é"]
    with (tmp_path / "s" / "set_aside.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"].endswith(r"sub-C-\xe9/broken.nii.gz")
    run(source, tmp_path / "s", prune=True)
    assert len(subjects(tmp_path / "s")) == 2, "it is still there"
