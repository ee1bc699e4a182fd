"""The slices' own headers decide where a series lies: tilt, order, gaps, copies; what cannot be known is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy import ndimage

from mdae.data.dicom import read_series
from mdae.data.dicom_geometry import check_volume, slice_grid
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sources import list_source
from mdae.errors import ScanError
from tests.conftest import COARSE
from tests.data.test_dicom import OBLIQUE, head, write_series

SHAPE = (30, 34, 16)
STRAIGHT = from_matvec(np.diag([-4.0, -4.0, 6.0]), [60, 66, -40])


def tilted(degrees: float, axis: int = 1) -> np.ndarray:
    """Slices turned about an axis while the table goes straight on: a sheared affine."""
    a = np.deg2rad(degrees)
    turn = euler2mat(0, a, 0) if axis == 1 else euler2mat(0, 0, a)  # about y, about x
    matrix = turn @ STRAIGHT[:3, :3]
    matrix[:, 2] = STRAIGHT[:3, 2]
    return from_matvec(matrix, [60, 66, -40])


def with_a_spot(affine: np.ndarray, spot: tuple[float, ...] = (12.0, 9.0, 11.0)) -> np.ndarray:
    """A bright blob about a place in the world."""
    world = apply_affine(affine, np.moveaxis(np.indices(SHAPE), 0, -1))
    return (100 + 3000 * np.exp(-((world - spot) ** 2).sum(-1) / (2 * 8.0**2))).astype(np.uint16)


def edit(folder: Path, change: object) -> Path:
    """Change every file of a series: `change(dataset, number)`."""
    for number, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        change(ds, number)  # type: ignore[operator]
        ds.save_as(path)
    return folder


def read(folder: Path) -> object:
    (entry,) = list_source(folder).entries
    return read_series(entry)


@pytest.mark.parametrize("degrees", [15, -15, 22])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_tilted_gantry_is_set_upright(tmp_path, degrees, axis):
    affine = tilted(degrees, axis)
    scan = read(write_series(tmp_path / "d", with_a_spot(affine), affine, Modality="CT"))
    found = apply_affine(scan.affine, ndimage.center_of_mass(np.clip(scan.data - 1000, 0, None)))
    assert np.abs(found - [12, 9, 11]).max() < 1.0
    axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    (note,) = scan.notes
    assert note == f"a tilted gantry, each slice put where it lies: {abs(degrees):.1f} degrees"


@pytest.mark.parametrize(
    "affine", [STRAIGHT, OBLIQUE, from_matvec(np.array([[0, 0, 6.0], [4, 0, 0], [0, -4, 0]]), [1, 2, 3])]
)
def test_what_is_not_tilted_is_taken_as_it_is(tmp_path, affine):
    scan = read(write_series(tmp_path / "d", with_a_spot(affine, apply_affine(affine, [12, 14, 7])), affine))
    found = apply_affine(scan.affine, ndimage.center_of_mass(np.clip(scan.data - 1500, 0, None)))
    assert np.abs(found - apply_affine(affine, [12, 14, 7])).max() < 1.0
    assert scan.notes == () and scan.modality == "MR"


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ImageOrientationPatient", "nobody knows which way is left"),
        ("ImagePositionPatient", "nobody knows the order"),
    ],
)
def test_without_orientation_or_position_a_series_is_set_aside(tmp_path, name, reason, absent):
    def change(ds: Dataset, number: int) -> None:
        if number == 5 or absent:
            setattr(ds, name, None)
            if absent:
                delattr(ds, name)

    edit(write_series(tmp_path / "in", head(), STRAIGHT), change)
    config = PrepareConfig(source=tmp_path / "in", store=tmp_path / "s", preprocessing=COARSE, workers=1)
    summary = prepare(config)
    assert summary.prepared == 0 and reason in summary.set_aside[0].reason


def test_uneven_slices_and_several_stacks_are_set_aside(tmp_path):
    def move(ds: Dataset, number: int) -> None:
        ds.ImagePositionPatient[2] = float(ds.ImagePositionPatient[2]) + (9.0 if number > 20 else 0)

    def turn(ds: Dataset, number: int) -> None:
        if number > 20:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, 1]

    for name, change, reason in (
        ("a", move, "missing or uneven, 6 to 15 mm apart"),
        ("b", turn, "several orientations"),
    ):
        folder = edit(write_series(tmp_path / name, head(), STRAIGHT), change)
        with pytest.raises(ScanError, match=reason):
            read(folder)


def test_slices_that_share_a_uid_are_slices(tmp_path):
    def share(ds: Dataset, number: int) -> None:
        ds.SOPInstanceUID = "1.2.3.4"

    folder = edit(write_series(tmp_path / "d", head(), STRAIGHT), share)
    listing = list_source(folder)
    assert len(listing.entries[0].slices) == 36 and listing.left_out == []
    assert read_series(listing.entries[0]).data.shape == (40, 44, 36)


def test_a_slice_that_was_sent_again_under_another_uid_is_a_copy(tmp_path):
    folder = write_series(tmp_path / "d", head(), STRAIGHT)
    again = pydicom.dcmread(folder / "IM0010")
    again.SOPInstanceUID, again.InstanceNumber = "1.2.3.5", 99
    again.save_as(folder / "IM9999")
    listing = list_source(folder)
    assert len(listing.entries[0].slices) == 36
    assert [(Path(row.path).name, row.reason) for row in listing.left_out] == [
        ("IM9999", f"a copy of {folder / 'IM0010'}")
    ]
    other = pydicom.dcmread(folder / "IM0010")
    other.SOPInstanceUID = "1.2.3.6"
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(folder / "IM9999")
    (entry,) = list_source(folder).entries
    assert len(entry.slices) == 37, "other pixels are another slice"
    with pytest.raises(ScanError, match="1 to 2 at a place"):
        read_series(entry)


@pytest.mark.parametrize(
    "name", ["I{:04d}.MR", "I{:04d}.img", "MR.1.2.840.{}", "{}.IMA", "{}", "{}.bin", "{}.CT"]
)
def test_dicom_is_told_by_its_content(tmp_path, name):
    folder = write_series(tmp_path / "d", head(), STRAIGHT)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / name.format(number))
    (entry,) = list_source(tmp_path).entries
    assert len(entry.slices) == 36 and entry.subject == "P1"


def test_files_that_begin_with_their_first_tag_are_dicom(tmp_path):
    folder = write_series(tmp_path / "d", head(), STRAIGHT)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert read(folder).data.shape == (40, 44, 36)


def multi_frame(path: Path, positions: list[float]) -> Path:
    """The header of an enhanced image, a frame a slice."""
    ds = Dataset()
    ds.Rows, ds.Columns, ds.NumberOfFrames = 34, 30, len(positions)
    shared, frames = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = [4.0, 5.0], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    for z in positions:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-60, -66, z]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = (
        Sequence([shared]),
        Sequence(frames),
    )
    ds.save_as(path, implicit_vr=False, little_endian=True)
    return path


def test_frames_of_one_file_are_slices_too(tmp_path):
    grid = slice_grid([multi_frame(tmp_path / "a", [0.0, 6, 12, 18])], tmp_path)
    assert grid.shape == (30, 34, 4) and not grid.tilted and grid.volumes == 1
    np.testing.assert_allclose(grid.affine, from_matvec(np.diag([-5.0, -4, 6]), [60, 66, 0]))
    assert slice_grid([multi_frame(tmp_path / "b", [0.0, 6, 12, 18] * 3)], tmp_path).volumes == 3
    for positions in ([0.0, 6, 12, 24], [0.0, 6, 13, 18, 24], [0.0, 0, 6, 12]):
        with pytest.raises(ScanError, match="slices are missing or uneven"):
            slice_grid([multi_frame(tmp_path / "c", positions)], tmp_path)


@pytest.mark.parametrize("wrong", ["mirrored", "moved", "thinner", "fewer"])
def test_what_a_converter_puts_elsewhere_is_refused(tmp_path, wrong):
    folder = write_series(tmp_path / "d", head(SHAPE), STRAIGHT)
    grid = slice_grid(sorted(folder.iterdir()), folder)
    shape, affine = SHAPE, STRAIGHT.copy()
    check_volume(grid, affine, shape, folder)
    check_volume(
        grid, affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 33], [0, 0, -1, 15], [0, 0, 0, 1.0]]), shape, folder
    )
    if wrong == "mirrored":
        affine[0] *= -1
        affine[0, 3] += 20
    elif wrong == "moved":
        affine[2, 3] += 3
    elif wrong == "thinner":
        affine[2, 2] = 5
    else:
        shape = (*SHAPE[:2], 15)
    with pytest.raises(ScanError, match="dcm2niix"):
        check_volume(grid, affine, shape, folder)


CASES = {"dicom_gantry_tilt_first": "", "dicom_no_orientation": "0020,0037", "dicom_no_position": "0020,0032"}


@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_set_upright_or_refused_by_name(real_scans, name):
    folder = real_scans.parent / "cases" / name / "in"
    if not folder.is_dir():
        pytest.skip("no cases beside MDAE_TEST_DATA")
    if CASES[name]:
        with pytest.raises(ScanError, match=CASES[name]):
            read(folder)
        return
    scan = read(folder)
    voxel = np.array(np.unravel_index(scan.data.argmax(), scan.data.shape))
    off = np.linalg.inv(scan.affine) @ [22, 31, 18, 1]
    assert np.abs(off[:3] - voxel).max() <= 0.55
