"""Odd NIfTI headers: read as ITK reads them, told of, or refused by the true reason; never taken in silence."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import from_matvec, voxel_sizes

from mdae.data.io import read_scan
from mdae.errors import ScanError

SHAPE = (12, 11, 10)
MM, METRE, MICRON = 2, 1, 3
TILTED = from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-2.0, -3.0, 4.0]), [30, 20, -10])


def header(
    affine: np.ndarray,
    *,
    sform: int = 0,
    qform: int = 0,
    pixdim: tuple[float, ...] | None = None,
    units: int = MM,
) -> nib.Nifti1Header:
    """A header as it would be written by hand: nothing is set right."""
    out = nib.Nifti1Header()
    out.set_data_shape(SHAPE)
    out.set_data_dtype(np.int16)
    out["vox_offset"], out["magic"], out["scl_slope"], out["scl_inter"] = 352, b"n+1", 1, 0
    out.set_qform(affine, code=1)
    out["qform_code"] = qform
    out["sform_code"] = sform
    for name, row in zip("xyz", affine, strict=False):
        out[f"srow_{name}"] = row
    if pixdim is not None:
        out["pixdim"][1:4] = pixdim
    out["xyzt_units"] = units
    return out


def write(path: Path, head: nib.Nifti1Header) -> Path:
    voxels = np.arange(np.prod(SHAPE), dtype="<i2").tobytes()
    path.write_bytes(head.binaryblock + bytes(4) + voxels)
    return path


def itks_affine(path: Path) -> np.ndarray:
    """What ITK makes of a file, in RAS."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(path))
    flip = np.diag([-1.0, -1.0, 1.0])
    matrix = flip @ np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return from_matvec(matrix, flip @ np.array(image.GetOrigin()))


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize(("units", "mm"), [(0, 1), (MM, 1), (METRE, 1000), (MICRON, 0.001), (MM + 8, 1)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_units_are_honoured(tmp_path, form, units, mm, scale):
    inside = from_matvec(TILTED[:3, :3] * scale, TILTED[:3, 3])
    head = header(from_matvec(inside[:3, :3] / mm, inside[:3, 3] / mm), units=units, **{form: 1})
    path = write(tmp_path / "x.nii", head)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, inside, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scan.affine, itks_affine(path), rtol=1e-3, atol=1e-3)
    assert scan.notes == ()


def test_what_is_no_size_of_a_body_in_its_units_is_refused(tmp_path):
    for units, pattern in ((MICRON, "0.002 x 0.003 x 0.004 mm"), (METRE, "2e.03 x 3e.03 x 4e.03 mm")):
        with pytest.raises(ScanError, match=pattern):
            read_scan(write(tmp_path / "x.nii", header(TILTED, sform=1, units=units)))


@pytest.mark.parametrize("pixdim", [(2.0, 2.0, 8.0), (1.56, 1.56, 10.0), (1.0, 1.0, 2.5)])
def test_pixdim_wins_over_a_sform_of_other_spacing_with_a_word_as_in_itk(tmp_path, pixdim):
    for affine in (np.diag([-1.0, -1.0, 1.0, 1.0]), from_matvec(TILTED[:3, :3] / [2, 3, 4], [5, 6, 7])):
        path = write(tmp_path / "x.nii", header(affine, sform=2, pixdim=pixdim))
        scan = read_scan(path)
        np.testing.assert_allclose(scan.affine, itks_affine(path), atol=1e-4)
        np.testing.assert_allclose(voxel_sizes(scan.affine), pixdim, rtol=1e-5)
        (note,) = scan.notes
        assert "contradict" in note and f"{pixdim[0]:.4g} x" in note and "1 x 1 x 1 mm" in note


def test_rounding_is_no_contradiction(tmp_path):
    head = header(TILTED, sform=1, pixdim=(2.01, 3.0, 4.0))
    assert read_scan(write(tmp_path / "x.nii", head)).notes == ()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("form", ["qform", "neither"])
def test_a_spacing_of_0_is_refused(tmp_path, bad, form):
    head = header(np.diag([5.0, 5.0, 5.0, 1.0]), qform=int(form == "qform"), pixdim=(5.0, 5.0, bad))
    with pytest.raises(ScanError, match=rf"a spacing of 5 x 5 x {bad:.4g} mm in its header .*pixdim"):
        read_scan(write(tmp_path / "x.nii", head))


def test_where_the_sform_has_it_a_missing_spacing_is_told(tmp_path):
    scan = read_scan(write(tmp_path / "x.nii", header(TILTED, sform=1, qform=1, pixdim=(2.0, 3.0, 0.0))))
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)
    assert scan.notes == ("no spacing in pixdim, the sform's is taken: 2 x 3 x 4 mm",)


def test_sform_and_qform_that_disagree_are_told(tmp_path):
    head = header(TILTED, sform=1, qform=1)
    head["qoffset_x"] += 7
    scan = read_scan(write(tmp_path / "x.nii", head))
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)
    assert scan.notes == ("sform and qform disagree, the sform is taken: up to 7 mm apart",)
    head["qoffset_x"] -= 6.9
    assert read_scan(write(tmp_path / "x.nii", head)).notes == ()


def test_a_file_with_neither_is_told(tmp_path):
    scan = read_scan(write(tmp_path / "x.nii", header(np.diag([2.0, 3.0, 4.0, 1.0]))))
    assert nib.aff2axcodes(scan.affine) == ("L", "A", "S")
    assert scan.notes == ("neither sform nor qform, axes taken to run left, forwards and up: 2 x 3 x 4 mm",)


@pytest.mark.parametrize("over", [1.0, 1.0000020265579224, 1.0001, 1.02])
def test_a_quaternion_a_little_too_long_is_read_as_itk_does(tmp_path, over):
    head = header(np.diag([-5.0, 5.0, 5.0, 1.0]), qform=1)
    head["quatern_b"], head["quatern_c"], head["quatern_d"], head["pixdim"][0] = 0, over, 0, -1
    path = write(tmp_path / "x.nii", head)
    np.testing.assert_allclose(read_scan(path).affine, itks_affine(path), atol=1e-4)


@pytest.mark.parametrize("value", [3.0, np.nan])
def test_a_quaternion_that_is_none_is_refused(tmp_path, value):
    head = header(TILTED, qform=1)
    head["quatern_b"] = value
    with pytest.raises(ScanError, match="a qform that is no rotation"):
        read_scan(write(tmp_path / "x.nii", head))


def test_a_singular_sform_gives_way_to_the_qform_with_a_word(tmp_path):
    head = header(TILTED, sform=1, qform=1)
    head["srow_x"] = 0
    scan = read_scan(write(tmp_path / "x.nii", head))
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-4)
    assert scan.notes == ("a sform that is singular, the qform is taken",)


def test_sheared_axes_are_told(tmp_path):
    sheared = TILTED.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    scan = read_scan(write(tmp_path / "x.nii", header(sheared, sform=4, pixdim=tuple(voxel_sizes(sheared)))))
    assert [note.partition(":")[0] for note in scan.notes] == ["axes that are not at right angles"]


@pytest.mark.parametrize(
    ("slope", "inter"), [(2.0, np.nan), (2.0, np.inf), (0.0, 0.0), (np.nan, np.nan), (0.5, 3.0)]
)
def test_scaling_is_itks(tmp_path, slope, inter):
    head = header(TILTED, sform=1)
    head["scl_slope"], head["scl_inter"] = slope, inter
    path = write(tmp_path / "x.nii", head)
    itks = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    np.testing.assert_allclose(read_scan(path).data, itks.astype(np.float32))


def test_nothing_is_said_by_nibabel_or_numpy(tmp_path, caplog, recwarn, capfd):
    for number, changes in enumerate(({"pixdim": (2.0, 2.0, 0.0)}, {}, {"pixdim": (-2.0, 3.0, 4.0)})):
        read_scan(write(tmp_path / f"{number}.nii", header(TILTED, sform=1, **changes)))
    assert not caplog.records and not list(recwarn) and capfd.readouterr() == ("", "")


def test_an_analyze_header_is_called_one(tmp_path):
    head = header(TILTED, sform=1)
    head["magic"] = b""
    with pytest.raises(ScanError, match="an Analyze header, which does not say which way is left"):
        read_scan(write(tmp_path / "x.nii", head))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_either_byte_order_and_nifti_2_are_read(tmp_path, byte_order):
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(np.arange(np.prod(SHAPE), dtype=f"{byte_order}i2").reshape(SHAPE), TILTED)
        image.header["xyzt_units"] = MICRON
        head = image.header.as_byteswapped(byte_order)
        raw = head.binaryblock + bytes(4) + image.get_fdata().astype(f"{byte_order}i2").tobytes(order="F")
        (tmp_path / "x.nii").write_bytes(raw)
        with pytest.raises(ScanError, match=r"0\.002 x"):
            read_scan(tmp_path / "x.nii")
        head["xyzt_units"] = MM
        (tmp_path / "x.nii").write_bytes(head.binaryblock + raw[len(head.binaryblock) :])
        assert np.array_equal(read_scan(tmp_path / "x.nii").data, image.get_fdata())


@pytest.mark.parametrize("name", ["pixdim_against_affine/in/scan.nii.gz", "readable_but_no_header/in/w2.nii"])
def test_the_cases_are_read_as_itk_reads_them(real_scans, name):
    path = real_scans.parent / "cases" / name
    if not path.exists():
        pytest.skip("no cases beside MDAE_TEST_DATA")
    np.testing.assert_allclose(read_scan(path).affine, itks_affine(path), atol=1e-4)
