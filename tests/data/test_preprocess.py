"""The head is found, cropped and normalised on what clinics and archives really hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdae.data.head import find_head
from mdae.data.io import Scan
from mdae.data.preprocess import NNSSL, Preprocessing, content_hash, prepare_scan
from mdae.errors import ConfigError, ScanError
from mdae.seeding import numpy_generator

SPACING_MM = np.array([2.0, 2.0, 3.0])


def ball(shape: tuple[int, int, int], centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    place = np.moveaxis(np.indices(shape), 0, -1) * SPACING_MM
    return np.asarray(((place - np.array(centre_mm)) ** 2).sum(-1) < radius_mm**2)


def scan_of(data: np.ndarray) -> Scan:
    return Scan(data.astype(np.float32), np.diag([*SPACING_MM, 1.0]), Path("made-up.nii.gz"))


def head_on_a_neck() -> Scan:
    """A head of 160 mm on a neck that runs out of the field of view 130 mm further down, air with noise."""
    shape = (110, 110, 100)
    noise = numpy_generator(0, "noise")
    tissue = ball(shape, (110, 110, 210), 80)
    tissue[40:70, 40:70, :60] = True
    return scan_of(np.abs(noise.normal(0, 4, shape)) + np.where(tissue, noise.normal(100, 15, shape), 0))


def test_a_neck_is_cut_at_the_wanted_height_and_air_cropped():
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0), height_mm=180.0, margin_mm=6.0)
    prepared = prepare_scan(head_on_a_neck(), contract)
    x, y, z = (side * 2 for side in prepared.data.shape)
    assert 170 <= x <= 184 and 170 <= y <= 184  # 160 and two margins, on a grid of 4 mm
    assert 180 <= z <= 196
    top = prepared.affine[2, 3] + z
    assert 290 <= top <= 305, "cut at the top instead of the neck"


def test_a_stripped_brain_with_undershoot_is_found():
    shape = (90, 90, 70)
    brain = ball(shape, (90, 90, 105), 65)
    noise = numpy_generator(0, "noise")
    data = np.where(brain, noise.normal(300, 60, shape), 0)
    rim = ball(shape, (90, 90, 105), 69) & ~brain
    data[rim] = -20
    found = find_head(data.astype(np.float32), SPACING_MM).at(data.shape)
    overlap = 2 * (found & brain).sum() / (found.sum() + brain.sum())
    assert overlap > 0.93
    record = prepare_scan(scan_of(data), Preprocessing(spacing_mm=(2.0, 2.0, 2.0))).record
    assert record.background == pytest.approx(-record.mean / record.std), "air is zero"


def test_a_ventricle_and_a_sinus_belong_to_the_head():
    shape = (90, 90, 70)
    data = np.where(ball(shape, (90, 90, 105), 70), 100.0, 0.0)
    cavity = ball(shape, (90, 90, 105), 15)
    data[cavity] = 0
    assert find_head(data.astype(np.float32), SPACING_MM).at(data.shape)[cavity].all()


@pytest.mark.parametrize("spike", [1e4, 1e8])
def test_a_few_spikes_change_nothing_and_float16_holds_all(spike):
    clean = head_on_a_neck()
    spiked = clean.data.copy()
    spiked[50:53, 50, 70] = spike
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 3.0))
    before, after = prepare_scan(clean, contract), prepare_scan(scan_of(spiked), contract)
    assert after.record.mean == pytest.approx(before.record.mean, rel=0.02)
    assert after.record.std == pytest.approx(before.record.std, rel=0.02)
    assert np.isfinite(after.data.astype(np.float16)).all() and after.data.max() <= 10.0


def test_scale_and_offset_of_intensities_do_not_matter():
    scan = head_on_a_neck()
    contract = Preprocessing(spacing_mm=(3.0, 3.0, 3.0))
    other = prepare_scan(scan_of(scan.data * 7 + 500), contract)
    np.testing.assert_allclose(other.data, prepare_scan(scan, contract).data, atol=2e-3)


def test_without_a_crop_the_field_of_view_is_kept():
    prepared = prepare_scan(head_on_a_neck(), Preprocessing(spacing_mm=(4.0, 4.0, 4.0), crop="none"))
    assert prepared.data.shape == (55, 55, 75)
    np.testing.assert_allclose(prepared.affine[:3, 3], (np.array([4, 4, 4]) - SPACING_MM) / 2)


def test_a_scan_without_a_head_is_one_line():
    data = np.zeros((40, 40, 40))
    data[20, 20, 20] = 1
    with pytest.raises(ScanError, match="constant"):
        prepare_scan(scan_of(data), Preprocessing())


def test_a_contract_survives_json_and_refuses_nonsense():
    contract = Preprocessing(spacing_mm=(1.0, 1.0, 3.0), crop="none", order=1)
    assert Preprocessing.from_dict(contract.to_dict()) == contract
    with pytest.raises(TypeError):
        Preprocessing.from_dict({**contract.to_dict(), "unknown": 1})
    for wrong in ({"spacing_mm": (0.0, 1.0, 1.0)}, {"margin_mm": -1.0}, {"height_mm": 0.0}):
        with pytest.raises(ConfigError):
            Preprocessing(**wrong)


def test_nnssls_normalisation_is_over_all_that_is_kept():
    """Cropped to what is not 0 and z-scored over the box, background and all."""
    data = np.where(ball((60, 60, 50), (60, 60, 75), 40), 100.0, 0.0)
    data += np.where(data > 0, numpy_generator(0, "noise").normal(0, 5, data.shape), 0.0)
    where = np.argwhere(data != 0)
    low, high = where.min(0), where.max(0) + 1
    kept = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    contract = replace(NNSSL, spacing_mm=(2.0, 2.0, 3.0))
    prepared = prepare_scan(scan_of(data), contract)
    np.testing.assert_allclose(prepared.data, (kept - kept.mean()) / kept.std(), atol=1e-4)


def test_the_content_hash_sees_every_voxel_and_no_name():
    data = np.random.default_rng(0).normal(size=(20, 22, 24)).astype(np.float32)
    before = content_hash(data)
    assert content_hash(np.asfortranarray(data)) == before
    for place in ((1, 2, 3), (0, 0, 0), (19, 21, 22)):
        changed = data.copy()
        changed[place] += 1
        assert content_hash(changed) != before, place
