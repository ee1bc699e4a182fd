"""A known point of a raw scan lands where the affine says, after prepare and on the way back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from scipy import ndimage

from mdae.data.io import Scan
from mdae.data.native import denormalise, to_native, to_prepared
from mdae.data.preprocess import PreparedRecord, Preprocessing, prepare_scan, to_ras
from mdae.data.resample import AxisMap, axis_matrix, resample
from mdae.seeding import numpy_generator


def rotation(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(a / 2), -np.sin(a / 2)], [0, np.sin(a / 2), np.cos(a / 2)]]
    )


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "LPS": np.diag([-0.9, -0.9, 3.0]),
    "sagittal": np.array([[0, 0, 3.2], [-0.8, 0, 0], [0, 0.8, 0]], dtype=float),
    "oblique": rotation(12) @ np.diag([-0.7, 0.9, 2.5]),
}


def head_with_a_point(direction: np.ndarray) -> tuple[Scan, np.ndarray]:
    """An ellipsoid of 150 x 180 x 140 mm with one bright spot; the scan, and the spot in world millimetres."""
    spacing = voxel_sizes(from_matvec(direction, np.zeros(3)))
    shape = np.ceil(210 / spacing).astype(int)
    affine = from_matvec(direction, [31.0, -17.0, 5.0])
    world = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    centre = apply_affine(affine, (shape - 1) / 2)
    inside = (((world - centre) / [75, 90, 70]) ** 2).sum(-1) < 1
    spot = centre + [22.0, -31.0, 14.0]
    blob = np.exp(-((world - spot) ** 2).sum(-1) / (2 * 5.0**2))
    data = np.where(inside, 100 + 400 * blob, 0) + 2 * numpy_generator(0, "noise").standard_normal(shape)
    return Scan(data.astype(np.float32), affine, Path("made-up.nii.gz")), spot


def centre_of_spot(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weight = np.clip(data - data.min() - 0.6 * (data.max() - data.min()), 0, None)
    return apply_affine(affine, ndimage.center_of_mass(weight))


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.5, 3.0)])
def test_a_point_lands_where_the_affine_says_and_comes_back(name, spacing):
    scan, spot = head_with_a_point(AFFINES[name])
    before = scan.data.copy()
    prepared = prepare_scan(scan, Preprocessing(spacing_mm=spacing))
    assert np.array_equal(scan.data, before), "the input was changed"
    assert nib.aff2axcodes(prepared.affine) == ("R", "A", "S")
    np.testing.assert_allclose(voxel_sizes(prepared.affine), spacing, atol=1e-6)
    found = centre_of_spot(prepared.data, prepared.affine)
    assert np.abs(found - spot).max() < 0.5 * min(spacing)

    native = to_native(denormalise(prepared.data, prepared.record), prepared.record, order=3)
    assert native.shape == scan.data.shape
    assert np.abs(centre_of_spot(native, scan.affine) - spot).max() < 0.5 * voxel_sizes(scan.affine).min()


@pytest.mark.parametrize("name", AFFINES)
def test_the_way_back_restores_intensities_inside_the_head(name):
    scan, _ = head_with_a_point(AFFINES[name])
    prepared = prepare_scan(scan, Preprocessing())
    native = to_native(denormalise(prepared.data, prepared.record), prepared.record)
    inside = ndimage.binary_erosion(scan.data > 50, iterations=5)
    assert np.median(np.abs(native - scan.data)[inside]) < 3.0


def test_a_mask_goes_there_and_back():
    scan, _ = head_with_a_point(AFFINES["oblique"])
    mask = (scan.data > 250).astype(np.float32)
    record = prepare_scan(scan, Preprocessing()).record
    there = to_prepared(mask, record)
    assert set(np.unique(there)) == {0.0, 1.0}
    back = to_native(there, record, order=0)
    overlap = 2 * (back * mask).sum() / (back.sum() + mask.sum())
    assert overlap > 0.9


def test_the_record_survives_json():
    scan, _ = head_with_a_point(AFFINES["LPS"])
    record = prepare_scan(scan, Preprocessing()).record
    assert PreparedRecord.from_dict(record.to_dict()) == record


def test_what_lies_outside_the_crop_is_filled():
    scan, _ = head_with_a_point(AFFINES["RAS"])
    prepared = prepare_scan(scan, Preprocessing())
    native = to_native(prepared.data, prepared.record, fill=-7.0)
    assert native[0, 0, 0] == -7.0
    assert (native == -7.0).mean() > 0.2


def test_ras_stays_and_others_turn():
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    turned, affine = to_ras(data, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert np.array_equal(turned, data[::-1, ::-1])
    np.testing.assert_allclose(apply_affine(affine, (0, 0, 0)), [-1, -2, 0])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resampling_equals_scipy(order):
    data = numpy_generator(0, "volume").standard_normal((21, 17, 12)).astype(np.float32)
    axes = (AxisMap(21, 30, 0.7, 0.2), AxisMap(17, 17, 1.0, 0.0), AxisMap(12, 40, 0.29, -0.1))
    expected = ndimage.affine_transform(
        data,
        [a.scale for a in axes],
        [a.offset for a in axes],
        output_shape=tuple(a.size_out for a in axes),
        order=order,
        mode="nearest",
    )
    np.testing.assert_allclose(resample(data, axes, order=order), expected, atol=2e-6 * np.ptp(data))


def test_resampling_keeps_constants_and_smooths_before_it_coarsens():
    matrix = axis_matrix(AxisMap(40, 10, 4.0, 1.5), 3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    ripple = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert np.abs(matrix @ ripple)[2:-2].max() < 0.02, "fine structure folded into coarse"
