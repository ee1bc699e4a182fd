"""Reading scans: what is fit is read exactly, and each unfit file has one clear line."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.data.formats import is_scan, scan_stem
from mdae.data.io import read_scan, write_nifti
from mdae.errors import ScanError
from mdae.seeding import numpy_generator


def volume(shape: tuple[int, ...] = (12, 11, 10)) -> np.ndarray:
    return numpy_generator(0, "volume").standard_normal(shape).astype(np.float32)


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_reads_what_nibabel_reads(tmp_path, suffix):
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    scan = read_scan(save(tmp_path / f"x{suffix}", volume(), affine))
    assert np.array_equal(scan.data, volume()) and scan.data.dtype == np.float32
    assert np.array_equal(scan.affine, affine)


def test_scaling_and_a_trailing_axis_are_taken_in(tmp_path):
    image = nib.Nifti1Image((volume() * 100).astype(np.int16)[..., None], np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "x.nii")
    expected = nib.load(tmp_path / "x.nii").get_fdata(dtype=np.float32)[..., 0]
    np.testing.assert_allclose(read_scan(tmp_path / "x.nii").data, expected)


def test_nifti2_is_read(tmp_path):
    nib.save(nib.Nifti2Image(volume(), np.eye(4)), tmp_path / "x.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "x.nii.gz").data, volume())


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_freesurfers_format_is_read(tmp_path, suffix):
    affine = nib.affines.from_matvec(np.array([[-1.0, 0, 0], [0, 0, 2], [0, -1, 0]]), [5, 6, 7])
    nib.save(nib.MGHImage(volume(), affine), tmp_path / f"x{suffix}")
    scan = read_scan(tmp_path / f"x{suffix}")
    assert np.array_equal(scan.data, volume())
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)


@pytest.mark.parametrize(("space", "signs"), [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1))])
def test_nrrd_is_read_into_ras_millimetres(tmp_path, space, signs):
    directions = np.array([[0.0, 2, 0], [1.5, 0, 0], [0, 0, 3]])  # a row an axis
    header = {"space": space, "space directions": directions, "space origin": [10.0, 20, 30]}
    nrrd.write(str(tmp_path / "x.nrrd"), volume(), header)
    scan = read_scan(tmp_path / "x.nrrd")
    assert np.array_equal(scan.data, volume())
    world = (directions.T @ [3, 4, 5] + [10, 20, 30]) * signs
    np.testing.assert_allclose(nib.affines.apply_affine(scan.affine, [3, 4, 5]), world)


def test_a_nrrd_without_a_space_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "x.nrrd"), volume())
    with pytest.raises(ScanError, match="no space, which does not say where left is"):
        read_scan(tmp_path / "x.nrrd")


def test_the_first_of_a_series_is_taken_if_wanted(tmp_path):
    path = save(tmp_path / "x.nii.gz", volume((12, 11, 10, 3)))
    assert np.array_equal(read_scan(path, series="first").data, volume((12, 11, 10, 3))[..., 0])


def test_writing_is_read_back(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", volume(), np.diag([2.0, 2, 2, 1]))
    scan = read_scan(tmp_path / "x.nii.gz")
    assert np.array_equal(scan.data, volume()) and scan.affine[0, 0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]


def truncated(path: Path) -> Path:
    save(path, volume((30, 30, 30)))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def with_value(value: float) -> np.ndarray:
    data = volume()
    data[3, 4, 5] = value
    return data


def zero_affine(path: Path) -> Path:
    image = nib.Nifti1Image(volume(), np.eye(4))
    image.header.set_sform(np.zeros((4, 4)), code=1)
    image.header["pixdim"][1:4] = 1
    path.write_bytes(image.to_bytes())
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)  # the sform's rows
    path.write_bytes(bytes(raw))
    return path


BAD = {
    "truncated or damaged gzip": lambda p: truncated(p / "x.nii.gz"),
    "truncated or damaged voxels": lambda p: truncated(p / "x.nii"),
    "an empty file": lambda p: (p / "x.nii.gz", (p / "x.nii.gz").touch())[0],
    "no NIfTI header": lambda p: (p / "x.nii", (p / "x.nii").write_bytes(b"not a scan at all" * 40))[0],
    "a 2D image": lambda p: save(p / "x.nii", volume((64, 64, 1))),
    "a series of 3 volumes": lambda p: save(p / "x.nii", volume((12, 12, 12, 3))),
    "only 5 slices": lambda p: save(p / "x.nii", volume((64, 64, 5))),
    "1 voxels are NaN or infinite": lambda p: save(p / "x.nii", with_value(np.nan)),
    "every voxel is 4": lambda p: save(p / "x.nii", np.full((12, 12, 12), 4.0, dtype=np.float32)),
    "not finite or singular": lambda p: zero_affine(p / "x.nii"),
    "a voxel spacing of": lambda p: save(p / "x.nii", volume(), np.diag([1, 1, 900.0, 1])),
    "cannot be read": lambda p: p / "missing.nii.gz",
}


@pytest.mark.parametrize("reason", BAD)
def test_unfit_files_have_one_clear_line(tmp_path, reason):
    path = BAD[reason](tmp_path)
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert reason in caught.value.what and caught.value.where == str(path) and caught.value.mend
    assert "\n" not in str(caught.value)


def test_colours_are_refused(tmp_path):
    colours = np.zeros((10, 10, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ScanError, match="colours"):
        read_scan(save(tmp_path / "x.nii", colours))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 351), value=st.integers(0, 255), zipped=st.booleans())
def test_a_damaged_header_is_read_or_refused_but_never_a_traceback(tmp_path_factory, place, value, zipped):
    raw = bytearray(nib.Nifti1Image(volume(), np.eye(4)).to_bytes())
    raw[place] = value
    path = tmp_path_factory.mktemp("fuzz") / ("x.nii.gz" if zipped else "x.nii")
    path.write_bytes(gzip.compress(bytes(raw)) if zipped else bytes(raw))
    try:
        assert np.isfinite(read_scan(path).data).all()
    except ScanError as error:
        assert "\n" not in str(error)


def test_names():
    assert is_scan(Path("a.NII.GZ")) and not is_scan(Path(".a.nii")) and not is_scan(Path("a.txt"))
    assert scan_stem(Path("a.b.nii.gz")) == "a.b"
