"""DICOM: a series is the volume that its slices hold; what is no volume to learn from is left out, with its reason."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mdae.data.dicom import guess_contrast
from mdae.data.io import read_scan
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.data.sources import list_source
from mdae.data.store import Store
from mdae.data.workers import prepare_entry
from mdae.errors import DataError, ScanError
from tests.conftest import COARSE

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(
    folder: Path, data: np.ndarray, affine: np.ndarray, skip: tuple[int, ...] = (), **tags: object
) -> Path:
    """A volume (x, y, z), 0 to 65535, as slices along its third axis, as a scanner would export them."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    to_patient = LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    columns, rows = to_patient[:3, 0] / spacing[0], to_patient[:3, 1] / spacing[1]
    for number in range(data.shape[2]):
        if number in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.Manufacturer, ds.PatientID, ds.StudyDate = "MR", "made up", "P1", "20260101"
        ds.SeriesNumber, ds.SeriesDescription, ds.ImageType = 3, "t1 mprage sag", ["ORIGINAL", "PRIMARY", "M"]
        ds.EchoTime, ds.RepetitionTime, ds.MRAcquisitionType = 3.0, 2000.0, "3D"
        ds.InstanceNumber, ds.SliceThickness = number + 1, float(spacing[2])
        ds.ImagePositionPatient = [float(v) for v in (to_patient @ [0, 0, number, 1])[:3]]
        ds.ImageOrientationPatient = [float(v) for v in (*columns, *rows)]
        ds.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        ds.Rows, ds.Columns, ds.SamplesPerPixel = data.shape[1], data.shape[0], 1
        ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = np.ascontiguousarray(data[:, :, number].T.astype("<u2")).tobytes()
        for name, value in tags.items():
            setattr(ds, name, value)
        ds.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def head(shape: tuple[int, int, int] = (40, 44, 36)) -> np.ndarray:
    """A bright ball, brighter to the front right: no mirror image of itself."""
    x, y, z = np.indices(shape)
    centre = [side // 2 for side in shape]
    inside = sum((axis - c) ** 2 for axis, c in zip((x, y, z), centre, strict=True)) < 15**2
    return np.where(inside, 400 + 9 * x + 5 * y + 3 * z, 4).astype(np.uint16)


OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-4.0, -4.5, 5.0]), [80, 90, -70]
)


@pytest.mark.parametrize("affine", [np.diag([4.0, 4.0, 4.0, 1.0]), OBLIQUE], ids=["straight", "oblique"])
def test_a_series_is_prepared_as_the_same_volume_in_nifti(tmp_path, affine):
    write_series(tmp_path / "d" / "P1" / "1", head(), affine)
    nib.save(nib.Nifti1Image(head(), affine), tmp_path / "same.nii.gz")
    listing = list_source(tmp_path / "d")
    (entry,) = listing.entries
    assert (listing.kind, listing.left_out) == ("DICOM", [])
    assert (entry.subject, entry.session, entry.contrast) == ("P1", "20260101", "T1w")
    assert re.fullmatch(r"P1__20260101__3-t1-mprage-sag-[0-9a-f]{6}", entry.scan_id)
    assert len(entry.slices) == 36
    ours = prepare_entry(entry, Preprocessing(spacing_mm=(4.0, 4.0, 4.0)))
    plain = prepare_scan(read_scan(tmp_path / "same.nii.gz"), Preprocessing(spacing_mm=(4.0, 4.0, 4.0)))
    assert ours.record.source == str(entry.path)
    np.testing.assert_allclose(ours.affine, plain.affine, atol=1e-3)
    np.testing.assert_allclose(ours.data, plain.data, atol=2e-3)


def test_localisers_derived_series_reports_and_stumps_are_left_out_with_reasons(tmp_path):
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    write_series(tmp_path / "a", head(), affine)
    write_series(tmp_path / "b", head(), affine, SeriesDescription="3 plane loc")
    write_series(tmp_path / "c", head(), affine, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "d", head(), affine, ImageType=["DERIVED", "SECONDARY", "MPR"])
    write_series(tmp_path / "e", head(), affine, Modality="SR")
    write_series(tmp_path / "f", head()[:, :, :5], affine)
    (tmp_path / "g.dcm").write_bytes(b"no DICOM at all")
    (tmp_path / "README").write_text("text without a suffix is no DICOM and not worth a word")
    listing = list_source(tmp_path)
    assert len(listing.entries) == 1
    reasons = sorted(row.reason.split(": ")[-1] for row in listing.left_out)
    assert reasons == [
        "File is missing DICOM File Meta Information header or the 'DICM' prefix is missing from the header",
        "a localiser",
        "a localiser",
        "derived from other images (DERIVED/SECONDARY/MPR); take it with --derived",
        "modality SR is no volume",
        "only 5 slices",
    ]
    assert len(list_source(tmp_path, derived=True).entries) == 2


def test_a_series_with_a_hole_is_set_aside_until_it_is_whole(tmp_path):
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    write_series(tmp_path / "in" / "hole", head(), affine, skip=(20,), PatientID="P2")
    write_series(tmp_path / "in" / "whole", head() + np.uint16(1), affine)
    config = PrepareConfig(source=tmp_path / "in", store=tmp_path / "store", preprocessing=COARSE, workers=1)
    summary = prepare(config)
    assert summary.prepared == 1
    assert "slices are missing or uneven" in summary.set_aside[0].reason
    write_series(tmp_path / "in" / "hole", head() + np.uint16(2), affine, PatientID="P2")
    summary = prepare(config)
    assert (summary.prepared, summary.unchanged, summary.set_aside) == (1, 1, [])
    assert [scan.subject for scan in Store.open(tmp_path / "store").scans] == ["P1", "P2"]
    assert prepare(config).unchanged == 2


@pytest.mark.parametrize("patient", ["", "ANONYMOUS", "0000"])
def test_two_people_without_a_name_stay_two(tmp_path, patient):
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    for name in "ab":
        write_series(tmp_path / name, head(), affine, PatientID=patient)
    first, second = list_source(tmp_path).entries
    assert first.subject != second.subject


def test_a_series_that_gains_a_first_slice_is_taken_anew(tmp_path):
    folder = write_series(tmp_path / "in", head(), np.diag([8.0, 8.0, 8.0, 1.0]))
    first = folder / "IM0000"
    first.rename(tmp_path / "late")
    config = PrepareConfig(source=folder, store=tmp_path / "store", preprocessing=COARSE, workers=1)
    assert prepare(config).prepared == 1
    (tmp_path / "late").rename(first)
    summary = prepare(config)
    assert (summary.prepared, summary.set_aside) == (1, [])
    (scan,) = Store.open(tmp_path / "store").scans
    assert scan.source == str(first)


def test_a_study_that_was_copied_twice_is_one(tmp_path):
    folder = write_series(tmp_path / "in" / "a", head(), np.diag([8.0, 8.0, 8.0, 1.0]))
    shutil.copytree(folder, tmp_path / "in" / "b")
    listing = list_source(tmp_path / "in")
    (entry,) = listing.entries
    assert len(entry.slices) == 36 == len(listing.left_out)
    assert listing.left_out[0].reason == f"a copy of {folder / 'IM0000'}"


def test_a_single_image_type_is_one_word(tmp_path):
    write_series(tmp_path, head(), np.diag([8.0, 8.0, 8.0, 1.0]), ImageType="DERIVED")
    with pytest.raises(DataError, match=r"derived from other images \(DERIVED\)"):
        list_source(tmp_path)


def test_damaged_pixels_set_the_series_aside(tmp_path):
    folder = write_series(tmp_path / "in", head(), np.diag([8.0, 8.0, 8.0, 1.0]))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:1200])
    (entry,) = list_source(folder).entries
    with pytest.raises(ScanError) as caught:
        prepare_entry(entry, COARSE)
    assert caught.value.where == str(entry.path) and "\n" not in str(caught.value)


def test_without_dcm2niix_there_is_one_clear_line(tmp_path, monkeypatch):
    write_series(tmp_path / "in", head(), np.diag([8.0, 8.0, 8.0, 1.0]))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(DataError, match=r"dcm2niix is not installed.*mdae\[dicom\]"):
        prepare(PrepareConfig(source=tmp_path / "in", store=tmp_path / "s", preprocessing=COARSE, workers=1))


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("t1_mprage_sag_p2_iso", "T1w"),
        ("AX T1 POST", "T1w-gd"),
        ("AX T1 FLAIR", "T1w"),
        ("t1_tirm_tra", "T1w"),
        ("t1_gre_fs", "T1w"),
        ("T1 TFE GRE", "T1w"),
        ("MPRAGE POST2", "T1w-gd"),
        ("t2_tirm_tra", "FLAIR"),
        ("ep2d_bold_rest", "bold"),
        ("ep2d_perf", "ep2d_perf"),
        ("t2_space_flair_dark-fluid", "FLAIR"),
        ("T2 TSE tra", "T2w"),
        ("ep2d_diff_b1000", "dwi"),
        ("SWI_Images", "swi"),
        ("T2* GRE", "T2starw"),
        ("3D ASL", "asl"),
        ("something new", "something-new"),
    ],
)
def test_the_contrast_is_guessed_from_the_description(description, contrast):
    assert guess_contrast(description) == contrast
    assert guess_contrast("t1 tse", agent="Gadovist") == "T1w-gd"


@pytest.mark.parametrize("name", ["ms-longitudinal"])
def test_a_real_scan_as_dicom_is_the_scan(real_scans, tmp_path, name):
    path = next(iter(sorted((real_scans / name).rglob("*_T1w.nii.gz"))))
    image = nib.load(path)
    data = np.asarray(image.dataobj).astype(np.uint16)
    write_series(tmp_path / "d", data, image.affine)
    (entry,) = list_source(tmp_path / "d").entries
    ours, plain = prepare_entry(entry, Preprocessing()), prepare_scan(read_scan(path), Preprocessing())
    assert ours.record.shape == plain.record.shape
    assert np.abs(ours.data - plain.data).mean() < 1e-3
    assert os.path.commonpath([entry.path, tmp_path]) == str(tmp_path) and pydicom.dcmread(entry.path).Rows
