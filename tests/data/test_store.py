"""The store and `prepare`: crops are slices, nothing is half there, nothing is done twice."""

from __future__ import annotations

import contextlib
import csv
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.data.io import read_scan, write_nifti
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.store import Store
from mdae.errors import DataError
from mdae.seeding import numpy_generator
from tests.conftest import COARSE


def config(source: Path, store: Path, **changes: object) -> PrepareConfig:
    return PrepareConfig(source=source, store=store, **{"preprocessing": COARSE, "workers": 1, **changes})


def contents(store: Path) -> dict[str, bytes]:
    opened = Store.open(store)
    return {scan.scan_id: opened.read(scan).tobytes() for scan in opened.scans}


@settings(max_examples=30, deadline=None)
@given(start=st.tuples(*[st.integers(-20, 30)] * 3), size=st.tuples(*[st.integers(1, 40)] * 3))
def test_a_crop_is_a_slice_padded_with_background(store, start, size):
    opened = Store.open(store)
    scan = opened.scans[0]
    background = np.float16(scan.background)
    padded = np.pad(opened.read(scan), 60, constant_values=background)
    window = tuple(slice(60 + s, 60 + s + n) for s, n in zip(start, size, strict=True))
    assert np.array_equal(opened.read_crop(scan, start, size), padded[window])


def test_volumes_are_z_scored_over_the_head(store):
    opened = Store.open(store)
    for scan in opened.scans:
        volume = opened.read(scan).astype(np.float32)
        head = volume[volume > scan.background + 0.25]
        assert abs(head.mean()) < 0.3 and 0.5 < head.std() < 1.5
        assert opened.read(scan).dtype == np.float16 and volume.shape == scan.shape


def test_preparing_again_changes_nothing(cohort, store):
    before = {path: path.stat().st_mtime_ns for path in (store / "volumes").iterdir()}
    summary = prepare(config(cohort, store))
    assert (summary.prepared, summary.unchanged) == (0, 24)
    assert before == {path: path.stat().st_mtime_ns for path in (store / "volumes").iterdir()}


def test_a_changed_scan_is_prepared_anew_and_a_new_one_added(cohort, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(cohort / "sub-A0001", source / "sub-A0001")
    prepare(config(source, tmp_path / "store"))
    shutil.copytree(cohort / "sub-ADNI-002-S-0002", source / "sub-ADNI-002-S-0002")
    path = source / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    shutil.copy(cohort / "sub-BraTS-GLI-00003-000" / "anat" / "sub-BraTS-GLI-00003-000_T1w.nii.gz", path)
    os.utime(path, ns=(1, 1))
    summary = prepare(config(source, tmp_path / "store"))
    assert (summary.prepared, summary.unchanged) == (3, 1)


def test_processes_give_what_one_gives(cohort, store, tmp_path):
    prepare(config(cohort, tmp_path / "other", workers=2))
    assert contents(tmp_path / "other") == contents(store)


def test_a_dry_run_writes_nothing(cohort, tmp_path):
    summary = prepare(config(cohort, tmp_path / "store", dry_run=True))
    assert summary.found == 24 and not (tmp_path / "store").exists()


def test_bad_scans_are_set_aside_with_reasons_and_the_others_go_on(cohort, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(cohort / "sub-A0001", source / "sub-A0001")
    good = source / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    (source / "cut.nii.gz").write_bytes(good.read_bytes()[:3000])
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 1), dtype=np.float32), np.eye(4)), source / "flat.nii")
    (source / "empty.nii").touch()
    summary = prepare(config(source, tmp_path / "store"))
    assert summary.prepared == 2 and len(summary.set_aside) == 3
    with (tmp_path / "store" / "set_aside.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert "gzip" in rows["cut.nii.gz"]["reason"] and "2D" in rows["flat.nii"]["reason"]
    assert all(row["mend"] for row in rows.values()) and rows.keys() == {
        "cut.nii.gz",
        "flat.nii",
        "empty.nii",
    }


def test_a_scan_that_breaks_the_code_does_not_end_the_others(cohort, tmp_path, monkeypatch):
    def odd(path: Path, **options: object) -> object:
        if path.name == "sub-A0001_T1w.nii.gz":
            raise ZeroDivisionError("of a\nkind nobody thought of")
        return read_scan(path, **options)

    monkeypatch.setattr("mdae.data.workers.read_scan", odd)
    summary = prepare(config(cohort, tmp_path / "store"))
    assert summary.prepared == 23
    assert [row.reason for row in summary.set_aside] == [
        "unforeseen ZeroDivisionError: of a kind nobody thought of"
    ]


def test_two_sources_with_equal_names_do_not_overwrite_each_other(cohort, tmp_path):
    names = {"one": "sub-A0001", "two": "sub-ADNI-002-S-0002"}
    for folder, subject in names.items():
        (tmp_path / folder).mkdir()
        shutil.copy(
            cohort / subject / "anat" / f"{subject}_T1w.nii.gz", tmp_path / folder / "sub-1_T1w.nii.gz"
        )
    prepare(config(tmp_path / "one", tmp_path / "store"))
    before = contents(tmp_path / "store")
    summary = prepare(config(tmp_path / "two", tmp_path / "store"))
    assert summary.prepared == 0 and str(tmp_path / "one" / "sub-1_T1w.nii.gz") in summary.set_aside[0].reason
    assert contents(tmp_path / "store") == before
    shutil.rmtree(tmp_path / "one")
    assert prepare(config(tmp_path / "two", tmp_path / "store")).prepared == 1


def test_a_changed_scan_is_never_described_by_what_it_was(cohort, tmp_path, monkeypatch):
    """As after a kill between the new volume and the manifest."""
    path = tmp_path / "source" / "sub-1_T1w.nii.gz"
    path.parent.mkdir()
    shutil.copy(cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz", path)
    prepare(config(path.parent, tmp_path / "store"))
    scan = read_scan(path)
    write_nifti(path, scan.data[:, :-4], scan.affine)
    monkeypatch.setattr(Store, "write_manifest", lambda self, fresh: None)
    prepare(config(path.parent, tmp_path / "store"))
    opened = Store.open(tmp_path / "store")
    assert opened.record(opened.scans[0]).source_shape[1] == scan.data.shape[1] - 4
    assert opened.read(opened.scans[0]).shape == opened.scans[0].shape


def test_another_contract_is_refused_and_nothing_lost(cohort, store):
    before = contents(store)
    with pytest.raises(DataError, match="give another folder"):
        prepare(config(cohort, store, preprocessing=Preprocessing(spacing_mm=(4.0, 4.0, 4.0))))
    assert contents(store) == before


def test_a_folder_of_something_else_is_refused(cohort, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="not empty and not a store"):
        prepare(config(cohort, tmp_path))
    with pytest.raises(DataError, match="no store there"):
        Store.open(tmp_path)


def test_a_full_disk_is_one_line(cohort, tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="the disk is full"):
        prepare(config(cohort, tmp_path / "store"))
    monkeypatch.undo()
    assert prepare(config(cohort, tmp_path / "store")).prepared == 24


def test_a_store_without_manifest_or_with_a_damaged_one_is_whole(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    (copy / "manifest.jsonl").write_text('{"half": ')
    assert Store.open(copy).scans == Store.open(store).scans
    (copy / "manifest.jsonl").unlink()
    assert Store.open(copy).scans == Store.open(store).scans


def test_a_store_travels_to_loader_processes(store):
    opened = pickle.loads(pickle.dumps(Store.open(store)))
    assert opened.read_crop(opened.scans[0], (0, 0, 0), (4, 4, 4)).shape == (4, 4, 4)


def test_killed_in_the_middle_and_repeated_it_equals_an_undisturbed_run(cohort, store, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mdae",
        "prepare",
        str(cohort),
        str(tmp_path / "store"),
        "--workers",
        "1",
    ]
    command += ["--spacing-mm", "8", "8", "8"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((tmp_path / "store" / "volumes").glob("[!.]*.b2nd"))) >= 3:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "store" / "volumes").glob("[!.]*.b2nd")))
    assert done >= 3
    summary = prepare(config(cohort, tmp_path / "store"))
    assert summary.unchanged >= min(done, 24) - 1 and summary.prepared + summary.unchanged == 24
    assert contents(tmp_path / "store") == contents(store)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes under /proc")
@pytest.mark.parametrize("killed", ["worker", "parent"])
def test_a_killed_process_is_one_line_and_none_lives_on(tmp_path, killed):
    source = tmp_path / "source"
    source.mkdir()
    data = numpy_generator(0, "volume").standard_normal((64, 64, 64)).astype(np.float32)
    for number in range(200):
        write_nifti(source / f"{number}.nii", data, np.eye(4))
    command = [
        sys.executable,
        "-m",
        "mdae",
        "prepare",
        str(source),
        str(tmp_path / "store"),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    await_true(lambda: any((tmp_path / "store" / "volumes").glob("[!.]*.b2nd")))
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0] if killed == "worker" else process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    if killed == "worker":
        assert process.returncode == 2 and "Traceback" not in output
        assert "a process was killed, most likely for want of memory" in output
    await_true(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert Store.open(tmp_path / "store").scans


def children(parent: int) -> list[int]:
    """The processes that `parent` started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_whole_files_give_the_same_crops(store, monkeypatch):
    by_blocks, whole = Store.open(store), Store.open(store)
    whole.whole_files = True
    whole = pickle.loads(pickle.dumps(whole))  # as loader processes get it
    monkeypatch.setattr(blosc2, "open", None)  # nothing is opened in place
    crops = [whole.read_crop(scan, (2, -3, 4), (8, 9, 10)) for scan in whole.scans[:4]]
    monkeypatch.undo()
    assert all(
        np.array_equal(crop, by_blocks.read_crop(scan, (2, -3, 4), (8, 9, 10)))
        for crop, scan in zip(crops, by_blocks.scans, strict=False)
    )


def test_copies_of_a_scan_count_once(cohort, tmp_path):
    source = cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    for name in ("b.nii.gz", "a.nii.gz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / "in" / name)
    summary = prepare(config(tmp_path / "in", tmp_path / "store"))
    assert [scan.scan_id for scan in Store.open(tmp_path / "store").scans] == ["a"]
    (copy,) = summary.set_aside
    assert (
        copy.path.endswith("b.nii.gz") and "the same voxels as" in copy.reason and "a.nii.gz" in copy.reason
    )
    again = prepare(config(tmp_path / "in", tmp_path / "store"))
    assert (again.prepared, again.unchanged, len(again.set_aside)) == (0, 1, 1)


def test_what_was_set_aside_is_not_read_again_until_it_changes(cohort, tmp_path, monkeypatch):
    bad, good = tmp_path / "in" / "bad.nii.gz", tmp_path / "in" / "good.nii.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"no scan")
    shutil.copy(cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz", good)
    assert prepare(config(bad.parent, tmp_path / "store")).prepared == 1
    read = []
    monkeypatch.setattr(
        "mdae.data.workers.read_scan", lambda path, **options: [read.append(path.name), read_scan(path)][1]
    )
    again = prepare(config(bad.parent, tmp_path / "store"))
    assert not read and len(again.set_aside) == 1 and "no NIfTI header" in again.set_aside[0].reason
    prepare(config(bad.parent, tmp_path / "store", retry=True))
    assert read == ["bad.nii.gz"]
    shutil.copy(cohort / "sub-ADNI-002-S-0002" / "anat" / "sub-ADNI-002-S-0002_T1w.nii.gz", bad)
    mended = prepare(config(bad.parent, tmp_path / "store"))
    assert (mended.prepared, mended.set_aside) == (1, [])


def test_a_contact_sheet_has_pages(cohort, tmp_path):
    prepare(config(cohort, tmp_path / "store", contact_sheet=40))
    (page,) = (tmp_path / "store" / "contact_sheet").iterdir()
    assert page.name == "page-001.png" and page.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["ms-cross", "ms-longitudinal"])
def test_real_scans_are_all_taken_and_fit_a_head(real_scans, tmp_path, name):
    summary = prepare(
        PrepareConfig(
            source=real_scans / name,
            store=tmp_path / "store",
            preprocessing=Preprocessing(spacing_mm=(2.0, 2.0, 2.0)),
            workers=2,
        )
    )
    assert not summary.set_aside and summary.prepared >= 8
    opened = Store.open(tmp_path / "store")
    for scan in opened.scans:
        extent = np.array(scan.shape) * 2.0
        assert (extent > [120, 150, 90]).all() and (extent < [210, 250, 220]).all(), scan.scan_id
        assert 0.25 < opened.record(scan).foreground < 0.9
