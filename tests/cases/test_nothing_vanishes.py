"""No file of any tree goes unaccounted for: taken + left out = looked at."""

from __future__ import annotations

import csv
import os
import socket
import tempfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.cli import main
from mdae.data.folder import list_folder
from mdae.data.store import Store
from mdae.seeding import numpy_generator

FOLDERS = st.sampled_from(
    (
        *(
            "A0001",
            "siteA",
            "siteB",
            "sub-01",
            "sub-ADNI-002-S-0001",
            "ses-2020-01-01",
            "Müller, Anna",
            "P 7",
            "IXI-T1",
        ),
        *(
            "anat",
            "labelsTr",
            "imagesTr",
            "segmentations",
            "derivatives",
            "sourcedata",
            ".git",
            "T1",
            "visit2",
            "data",
        ),
        os.fsdecode(b"sub-\xe9"),
    )
)
FILES = st.sampled_from(
    (
        *(
            "T1.nii.gz",
            "sub-01_T1w.nii",
            "A0001_0000.nii.gz",
            "x.mgz",
            "y.NRRD",
            "aseg.mgz",
            "A0001_seg.nii.gz",
        ),
        *(
            "z.mha",
            "pair.hdr",
            "pair.img",
            "d.nhdr",
            "d.raw.gz",
            "alone.img",
            "IM0001",
            "I0001.MR",
            "1.2.3.dcm",
        ),
        *(
            "notes.txt",
            "participants.tsv",
            "dataset.json",
            ".DS_Store",
            "._T1.nii.gz",
            ".hidden.nii",
            "scan.mnc",
        ),
        *(
            "a.zip",
            "thumb.png",
            "x.bval",
            "noextension",
            "s.nii.xz",
            "Größe.nii.gz",
            os.fsdecode(b"\xe9.nii.gz"),
        ),
    )
)
KINDS = st.sampled_from(
    ("file", "file", "file", "file", "dicom", "link", "broken", "annex", "pipe", "folder link")
)
ITEMS = st.lists(st.tuples(st.lists(FOLDERS, max_size=4), FILES, KINDS), min_size=1, max_size=14)


def make(root: Path, items: list[tuple[list[str], str, str]]) -> None:
    """A tree of small files of every kind."""
    for folders, name, kind in items:
        path = root.joinpath(*folders, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        if os.path.lexists(path):
            continue
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "broken":
            path.symlink_to("nowhere")
        elif kind == "annex":
            path.symlink_to("../.git/annex/objects/xx/yy/MD5E-s1--a.nii.gz/MD5E-s1--a.nii.gz")
        elif kind == "link":
            path.symlink_to(Path(__file__))
        elif kind == "folder link":
            path.symlink_to(root)
        else:
            path.write_bytes(b"\0" * 128 + b"DICM" if kind == "dicom" else b"\x1f\x8b")


def number_of_files(root: Path) -> int:
    """Every file below a folder, a hidden folder and a link to a folder as one each."""
    total = 0
    for folder, folders, files in os.walk(root):
        total += len(files) + sum(name.startswith(".") for name in folders)
        folders[:] = [
            name for name in folders if not name.startswith(".") and not (Path(folder) / name).is_symlink()
        ]
    return total


@settings(max_examples=80, deadline=None)
@given(ITEMS)
def test_every_file_of_a_random_tree_is_accounted_for(items):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "in"
        root.mkdir()
        make(root, items)
        found = list_folder(root)
        paths = [path for entry in found.entries for path in entry.slices or (entry.path,)]
        assert len(set(paths)) == len(paths), "nothing is taken twice"
        assert not {str(path) for path in paths} & {row.path for row in found.left_out}
        assert found.num_looked_at == number_of_files(root)
        assert all(row.reason for row in found.left_out)


def phantom(path: Path, number: int = 0, shape: tuple[int, int, int] = (28, 30, 26)) -> Path:
    """A noisy head, each a little other than the next."""
    rng = numpy_generator(number, "phantom")
    place = np.moveaxis(np.indices(shape), 0, -1) - np.array(shape) / 2
    data = np.where(
        (place**2).sum(-1) < 100, 200 + 5 * place[..., 0] + rng.normal(0, 9, shape), rng.uniform(0, 4, shape)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([6.0, 6.0, 6.0, 1.0])), path)
    return path


def test_prepare_takes_each_file_or_says_why_not(tmp_path, capsys):
    """End to end, with what fails while it is read."""
    source = tmp_path / "in"
    for number, name in enumerate(("A0001/T1.nii.gz", "ADNI-002-S-0001/T1.nii.gz", "Müller Anna/T1.nii.gz")):
        phantom(source / name, number)
    bad = {
        "A0001/broken.nii.gz": b"\x1f\x8b",
        "A0001/pointer.nii.gz": b"/annex/objects/MD5E-s1--a.nii.gz\n",
        "A0001/scan.mnc": b"x",
        "A0001/T1_seg.nii.gz": b"x",
        "A0001/all.zip": b"x",
        "A0001/only.hdr": b"x",
    }
    for name, content in bad.items():
        (source / name).write_bytes(content)
    (source / "A0001" / "notes.txt").write_text("no image")
    os.mkfifo(source / "A0001" / "pipe.nii")
    (source / "A0001" / "annex.nii.gz").symlink_to("../.git/annex/objects/a/MD5E-s1--a.nii.gz")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(source)  # a socket's name is short
        server.bind("sock.nii")
        os.chdir(here)
        main(["prepare", str(source), str(tmp_path / "s"), "--workers", "1", "--spacing-mm", "8", "8", "8"])
    expected = {Path(name).name for name in bad} | {"pipe.nii", "annex.nii.gz", "sock.nii"}
    assert f"3 scans prepared, 0 there already, {len(expected)} set aside" in capsys.readouterr().out
    with (tmp_path / "s" / "set_aside.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows.keys() == expected and all(row["reason"] and row["mend"] for row in rows.values())
    assert all("datalad get" in rows[name]["mend"] for name in ("annex.nii.gz", "pointer.nii.gz"))
    taken = {Path(scan.source).relative_to(source).as_posix() for scan in Store.open(tmp_path / "s").scans}
    assert taken == {"A0001/T1.nii.gz", "ADNI-002-S-0001/T1.nii.gz", "Müller Anna/T1.nii.gz"}
    main(["check", str(tmp_path / "s")])
    assert f"set aside: {len(expected)}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    phantom(tmp_path / "A0001" / "T1.nii.gz")
    (tmp_path / "B0001").mkdir()
    scandir = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "B0001":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("mdae.data.walk.os.scandir", refused)
    (row,) = list_folder(tmp_path).left_out
    assert row.path.endswith("B0001") and "Permission denied" in row.reason and row.mend


def test_folders_that_are_not_looked_into_say_how_much_they_hold(tmp_path):
    phantom(tmp_path / "sub-A" / "sub-A_T1w.nii.gz")
    phantom(tmp_path / "derivatives" / "x" / "sub-A" / "sub-A_T1w.nii.gz")
    phantom(tmp_path / "derivatives" / "y.nii.gz")
    (row,) = list_folder(tmp_path).left_out
    assert row.unseen and row.num_files == "2" and row.reason.endswith("derivatives of a BIDS tree")


@pytest.mark.parametrize("name", ["scan.MHA", "a b.nii.bz2", "x.nhdr"])
def test_suffixes_of_what_is_read_are_listed(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert [entry.path.name for entry in list_folder(tmp_path).entries] == [name]


def test_others_are_counted_by_suffix(tmp_path):
    for name in ("a.json", "b.json", "c.tsv", ".hidden", "README"):
        (tmp_path / name).write_text("x")
    assert list_folder(tmp_path).passed_over == Counter(
        {".json": 2, ".tsv": 1, "hidden": 1, "without a suffix": 1}
    )
