"""Formats and damages: what ITK reads is read, and what is not is refused by its true reason and a mend that mends."""

from __future__ import annotations

import bz2
import gzip
import sys
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from mdae.data.formats import is_scan, scan_stem
from mdae.data.io import read_scan
from mdae.errors import ScanError
from mdae.seeding import numpy_generator

LPS = {"space": "left-posterior-superior", "space origin": [10.0, 20, 30]}
DIRECTIONS = np.array([[0.0, 2, 0], [1.5, 0, 0], [0, 0, 3]])
AFFINE = np.array([[0, -1.5, 0, -10], [-2.0, 0, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


def volume(shape: tuple[int, ...] = (12, 11, 10)) -> np.ndarray:
    return (100 * numpy_generator(0, "volume").standard_normal(shape)).astype(np.int16)


def write_nrrd(path: Path, data: np.ndarray, **header: object) -> Path:
    nrrd.write(str(path), data, {**LPS, "space directions": DIRECTIONS, **header})
    return path


def assert_same(path: Path, affine: np.ndarray = AFFINE) -> None:
    scan = read_scan(path)
    assert np.array_equal(scan.data, volume())
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("um", 1e-3), ("micron", 1e-3), ("m", 1e3), ("cm", 10)])
def test_units_of_nrrd_are_honoured(tmp_path, unit, mm):
    scaled = {"space directions": DIRECTIONS / mm, "space origin": np.array(LPS["space origin"]) / mm}
    assert_same(write_nrrd(tmp_path / "x.nrrd", volume(), **scaled, **{"space units": [unit] * 3}))


def test_units_that_are_no_lengths_are_refused(tmp_path):
    path = write_nrrd(tmp_path / "x.nrrd", volume(), **{"space units": ["furlong"] * 3})
    with pytest.raises(ScanError, match="space units of 'furlong'"):
        read_scan(path)


@pytest.mark.parametrize("first", [True, False])
def test_a_nrrd_axis_of_no_space_and_length_one_goes(tmp_path, first):
    rows, data = [*DIRECTIONS], volume()
    rows.insert(0 if first else 3, np.full(3, np.nan))
    data = data[None] if first else data[..., None]
    kinds = ["domain"] * 3
    kinds.insert(0 if first else 3, "none" if first else "list")
    assert_same(write_nrrd(tmp_path / "x.nrrd", data, **{"space directions": np.array(rows), "kinds": kinds}))


def test_a_nrrd_axis_of_no_space_is_a_series_or_a_colour(tmp_path):
    rows = np.array([np.full(3, np.nan), *DIRECTIONS])
    data = np.stack([volume(), volume() + 1])
    for kind, reason in (("list", "a series of 2 volumes"), ("vector", "voxels are of kind vector")):
        header = {"space directions": rows, "kinds": [kind, "domain", "domain", "domain"]}
        path = write_nrrd(tmp_path / "x.nrrd", data, **header)
        with pytest.raises(ScanError, match=reason):
            read_scan(path)
    path = write_nrrd(tmp_path / "x.nrrd", data, **{"space directions": rows})
    assert np.array_equal(read_scan(path, series="first").data, volume())


def test_a_nrrd_without_an_origin_begins_at_0_with_a_word(tmp_path):
    header = {"space": "left-posterior-superior", "space directions": DIRECTIONS}
    nrrd.write(str(tmp_path / "x.nrrd"), volume(), header)
    scan = read_scan(tmp_path / "x.nrrd")
    assert scan.affine[:3, 3].tolist() == [0, 0, 0] and scan.notes == (
        "no origin in a NRRD header: taken as 0",
    )


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_nrrd_with_its_voxels_beside_it_is_read(tmp_path, encoding):
    nrrd.write(
        str(tmp_path / "x.nhdr"), volume(), {**LPS, "space directions": DIRECTIONS, "encoding": encoding}
    )
    assert_same(tmp_path / "x.nhdr")
    next(path for path in tmp_path.iterdir() if path.suffix != ".nhdr").unlink()
    with pytest.raises(ScanError, match="No such file"):
        read_scan(tmp_path / "x.nhdr")


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_metaimage_is_read_through_itk(tmp_path, suffix, monkeypatch):
    image = sitk.GetImageFromArray(volume().T)
    image.SetDirection((0.0, 1, 0, 1, 0, 0, 0, 0, 1))
    image.SetSpacing((2.0, 1.5, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(image, str(path))
    assert_same(path)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ScanError, match=r"SimpleITK is not installed.*pip install 'mdae\[itk\]'"):
        read_scan(path)


def test_a_damaged_metaimage_has_one_line(tmp_path):
    (tmp_path / "x.mha").write_text("ObjectType = Image\nNDims = 3\n")
    with pytest.raises(ScanError, match="no MetaImage that can be read") as caught:
        read_scan(tmp_path / "x.mha")
    assert "\n" not in str(caught.value)


def test_a_nifti_pair_is_read_by_its_header(tmp_path):
    nib.save(nib.Nifti1Pair(volume(), AFFINE), tmp_path / "x.hdr")
    assert_same(tmp_path / "x.hdr")
    (tmp_path / "x.img").write_bytes(b"")
    with pytest.raises(ScanError, match="truncated or damaged voxels"):
        read_scan(tmp_path / "x.hdr")
    (tmp_path / "x.img").unlink()
    with pytest.raises(ScanError, match=r"a header without its voxels .*x\.img"):
        read_scan(tmp_path / "x.hdr")


def test_bzip2_and_bytes_after_gzip_are_read(tmp_path):
    raw = nib.Nifti1Image(volume(), AFFINE).to_bytes()
    (tmp_path / "x.nii.bz2").write_bytes(bz2.compress(raw))
    assert_same(tmp_path / "x.nii.bz2")
    half = len(raw) // 2
    zipped = gzip.compress(raw[:half]) + gzip.compress(raw[half:])
    for number, tail in enumerate((b"", b"tail of another file", bytes(512), b"\x1f")):
        (tmp_path / f"{number}.nii.gz").write_bytes(zipped + tail)
        assert_same(tmp_path / f"{number}.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(zipped[:-30])
    with pytest.raises(ScanError, match="truncated or damaged gzip"):
        read_scan(tmp_path / "cut.nii.gz")


def test_links_and_pointers_of_data_managers_say_what_to_do(tmp_path):
    annex = tmp_path / "annex.nii.gz"
    annex.symlink_to("../.git/annex/objects/xx/yy/MD5E-s123--abc.nii.gz/MD5E-s123--abc.nii.gz")
    other = tmp_path / "link.nii.gz"
    other.symlink_to("nowhere.nii.gz")
    pointer = tmp_path / "pointer.nii.gz"
    pointer.write_text("/annex/objects/MD5E-s123--abc.nii.gz\n")
    lfs = tmp_path / "lfs.nii.gz"
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for path, what in (
        (annex, r"datalad get annex\.nii\.gz"),
        (pointer, r"a pointer of git-annex.*datalad get pointer"),
        (lfs, "a pointer of git-lfs.*git lfs pull"),
        (other, "a broken link to nowhere"),
        (tmp_path / "gone.nii", "cannot be read .No such file"),
    ):
        with pytest.raises(ScanError, match=what):
            read_scan(path)


def test_a_channel_first_is_called_so(tmp_path):
    nib.save(nib.Nifti1Image(volume()[None], AFFINE), tmp_path / "x.nii")
    with pytest.raises(ScanError, match=r"a volume with its channel first, of shape \(1, 12, 11, 10\)"):
        read_scan(tmp_path / "x.nii")


def test_the_reason_is_never_a_class_alone(tmp_path):
    for name in ("x.nii", "x.mgh", "x.nrrd", "x.nii.gz"):
        (tmp_path / name).write_bytes(b"not a scan at all" * 40)
        with pytest.raises(ScanError) as caught:
            read_scan(tmp_path / name)
        assert "Error" not in caught.value.what and len(caught.value.what) > 25


def test_names_of_all_formats():
    for name in ("a.NII.GZ", "a.hdr", "a.nhdr", "a.mha", "a.mhd", "a.nii.bz2"):
        assert is_scan(Path(name)) and scan_stem(Path(name)) == "a"


CASES = ["internan.nii", "noorigin.nrrd", "one_component.nrrd", "trailing.nii.gz", "w2.nii"]


@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_read_as_itk_reads_them(real_scans, name):
    path = real_scans.parent / "cases" / "readable_but_no_header" / "in" / name
    if not path.exists():
        pytest.skip("no cases beside MDAE_TEST_DATA")
    scan = read_scan(path)
    image = sitk.ReadImage(str(path))
    assert np.array_equal(scan.data, sitk.GetArrayFromImage(image).T)
    np.testing.assert_allclose(scan.affine[:3, 3] * [-1, -1, 1], image.GetOrigin(), atol=1e-4)
