"""The anatomy is told from padding, air, bright backgrounds and zeros; where there is none, that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdae.data.background import find_background
from mdae.data.head import find_head
from mdae.data.io import Scan, read_scan
from mdae.data.preprocess import PreparedScan, Preprocessing, prepare_scan
from mdae.errors import ScanError
from mdae.seeding import numpy_generator

SPACING_MM = np.array([4.0, 4.0, 5.0])
SHAPE = (60, 60, 40)


def ellipsoid(shape: tuple[int, ...] = SHAPE, radius: float = 0.36) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    return np.asarray(
        sum(((a - (n - 1) / 2) / (radius * n)) ** 2 for a, n in zip(axes, shape, strict=True)) < 1
    )


def noise(sd: float, shape: tuple[int, ...] = SHAPE, name: str = "noise") -> np.ndarray:
    return numpy_generator(0, name).normal(0, sd, shape)


def scan_of(data: np.ndarray, spacing: np.ndarray = SPACING_MM) -> Scan:
    return Scan(data.astype(np.float32), np.diag([*spacing, 1.0]), Path("made-up.nii.gz"))


def magnitude() -> np.ndarray:
    """A head in air with noise, as MRI has it."""
    return np.abs(noise(6)) + np.where(ellipsoid(), 300 + noise(60, name="tissue"), 0)


def ct(padding: float, *, body: bool = True) -> np.ndarray:
    """A head in air in a circle, and padding around that."""
    data = np.where(ellipsoid() & body, 30 + noise(20), -1000 + np.abs(noise(10)))
    x, y = np.indices(SHAPE[:2]) - (SHAPE[0] - 1) / 2
    data[np.hypot(x, y) > SHAPE[0] / 2] = padding
    return data


def stripped(values: np.ndarray, outside: float) -> np.ndarray:
    return np.where(ellipsoid(), values, outside)


SCENES = {
    "noisy air": magnitude(),
    "noisy air, padded with zeros": np.where(np.indices(SHAPE)[0] < 12, 0, magnitude()),
    "integers": np.rint(magnitude()),
    "inverted, noisy": 500 - magnitude(),
    "inverted, constant": 500 - stripped(300 + noise(60), 0),
    "CT": ct(-1000.0),
    "CT padded with -1024": ct(-1024.0),
    "CT padded with -2000": ct(-2000.0),
    "CT padded with -3024": ct(-3024.0),
    "CT padded with 0": ct(0.0),
    "brain on 0": stripped(300 + noise(60), 0),
    "brain on 0 with undershoot": np.where(
        ellipsoid(radius=0.37) & ~ellipsoid(), -15, stripped(300 + noise(60), 0)
    ),
    "brain z-scored on 0": stripped(noise(1), 0),
    "brain z-scored on -2": stripped(noise(0.5), -2),
    "CT brain on -1024": stripped(35 + noise(12), -1024),
    "brain on NIfTI's largest": stripped(300 + noise(60), 32767),
}


@pytest.mark.parametrize("name", SCENES)
def test_the_anatomy_is_told_from_its_background(name):
    data = SCENES[name].astype(np.float32)
    found = find_head(data, SPACING_MM).at(data.shape)
    truth = ellipsoid()
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93


@pytest.mark.parametrize("name", SCENES)
def test_background_and_statistics_are_those_of_the_scene(name):
    contract = Preprocessing(spacing_mm=(4.0, 4.0, 5.0))
    prepared = prepare_scan(scan_of(SCENES[name]), contract)
    inside = SCENES[name][ellipsoid()]
    off = 120 if "CT padded" in name or name == "CT" else 0.4 * inside.std()  # blocks at the edge hold air
    assert prepared.record.mean == pytest.approx(inside.mean(), abs=off)
    assert prepared.data.shape[0] < 54, "cropped"
    if name.startswith("CT padded"):
        air = (-1000 - prepared.record.mean) / prepared.record.std
        assert prepared.record.background == pytest.approx(max(air, -5), abs=0.1)


def test_a_z_scored_brain_is_prepared_as_the_raw_one():
    raw = stripped(300 + noise(60), 0)
    inside = raw[ellipsoid()]
    standard = np.where(ellipsoid(), (raw - inside.mean()) / inside.std(), 0)
    contract = Preprocessing(spacing_mm=(4.0, 4.0, 5.0))
    first, second = prepare_scan(scan_of(raw), contract), prepare_scan(scan_of(standard), contract)
    assert first.data.shape == second.data.shape
    inner = tuple(slice(side // 3, 2 * side // 3) for side in first.data.shape)
    np.testing.assert_allclose(first.data[inner], second.data[inner], atol=1e-3)


def organ(shape: tuple[int, int, int]) -> np.ndarray:
    """A field of view that an organ fills: no background at all."""
    x, y, _ = np.indices(shape)
    return 200 + 80 * np.sin(x / 9) * np.cos(y / 7) + noise(15, shape)


@pytest.mark.parametrize("anatomy", ["auto", "head", "body", "none"])
@pytest.mark.parametrize(
    ("shape", "spacing"), [((150, 130, 10), (1.56, 1.56, 10.0)), ((64, 64, 12), (1, 1, 1))]
)
def test_slabs_and_organs_that_fill_their_field_are_taken_whole(shape, spacing, anatomy):
    scan = scan_of(organ(shape), np.array(spacing))
    prepared = prepare_scan(scan, Preprocessing(spacing_mm=spacing, anatomy=anatomy))
    assert all(n >= 0.8 * side for n, side in zip(prepared.data.shape, shape, strict=True))
    assert prepared.record.std > 30


def specks() -> Scan:
    """Sparse specks in a large field: nothing that is one thing."""
    data = np.zeros((120, 120, 120))
    data[::5, ::5, ::5] = 100 + noise(10, data[::5, ::5, ::5].shape)
    return scan_of(data, np.ones(3))


def test_where_no_head_is_found_the_scan_is_whole_with_a_word_or_refused_if_one_was_asked_for(monkeypatch):
    from mdae.data import preprocess
    from mdae.data.head import Head

    empty = Head(np.zeros((2, 2, 2), dtype=bool), (64, 64, 64))
    monkeypatch.setattr(preprocess, "find_head", lambda *_: empty)
    scan = scan_of(organ((64, 64, 12)))
    prepared = prepare_scan(scan, Preprocessing())
    assert prepared.record.crop_shape == (64, 64, 12)
    assert prepared.record.notes == ("no head can be told from the background: prepared whole",)
    assert prepare_scan(scan, Preprocessing(crop="none")).record.notes == ()
    for anatomy in ("head", "body"):
        with pytest.raises(ScanError, match=rf"no {anatomy} can be told.*--anatomy none"):
            prepare_scan(scan, Preprocessing(anatomy=anatomy))
        assert prepare_scan(scan, Preprocessing(anatomy=anatomy, crop="none")).record.crop_shape == (
            64,
            64,
            12,
        )


def test_without_a_crop_a_specimen_keeps_its_field_of_view():
    data = np.where(ellipsoid((40, 40, 40)), 1000 + noise(30, (40, 40, 40)), 0)
    spacing = np.full(3, 0.1)
    for options in ({"crop": "none"}, {"anatomy": "none"}):
        prepared = prepare_scan(scan_of(data, spacing), Preprocessing(spacing_mm=(0.1, 0.1, 0.1), **options))
        assert prepared.data.shape == (40, 40, 40)
        assert prepared.record.mean == pytest.approx(1000, rel=0.02), "padding does not count"
    found = prepare_scan(scan_of(data, spacing), Preprocessing(spacing_mm=(0.1, 0.1, 0.1), margin_mm=0.2))
    assert 28 <= found.data.shape[0] <= 36


def body(**options: object) -> PreparedScan:
    data = np.where(ellipsoid((40, 40, 120), radius=0.48), 500 + noise(30, (40, 40, 120)), 0)
    contract = Preprocessing(spacing_mm=(8.0, 8.0, 8.0), **options)  # type: ignore[arg-type]
    return prepare_scan(scan_of(data, np.full(3, 8.0)), contract)


def test_cutting_more_than_a_third_of_a_body_is_told_and_a_body_is_kept():
    cut = body()
    assert cut.data.shape[2] <= 27
    assert cut.record.notes == ("cut below 200 mm from the top: 78% of its height",)
    whole = body(anatomy="body")
    assert whole.data.shape[2] >= 114 and whole.record.notes == ()
    assert body(height_mm=700.0).record.notes == (), "less than a third"


def test_padding_is_what_many_voxels_of_the_faces_share():
    assert find_background(magnitude().astype(np.float32)).padding is None
    assert find_background(ct(-3024.0).astype(np.float32)) == (
        -3024.0,
        True,
        pytest.approx(-992, abs=12),
        False,
    )


@pytest.mark.parametrize("name", ["ms-cross", "ms-longitudinal"])
def test_real_heads_are_cropped_to_a_heads_size(real_scans, name):
    path = sorted((real_scans / name).rglob("*T1w.nii.gz"))[0]
    shape = prepare_scan(read_scan(path), Preprocessing()).data.shape
    assert 120 < shape[0] < 190 and 150 < shape[1] < 240 and 100 < shape[2] <= 210


@pytest.fixture
def case(real_scans) -> Path:
    folder = real_scans.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no cases beside MDAE_TEST_DATA")
    return folder


def test_the_z_scored_case_is_cropped_as_its_raw_one(case):
    folder = case / "zscored_brain_on_zero" / "in"
    raw, standard = (prepare_scan(read_scan(folder / f"{n}.nii.gz"), Preprocessing()) for n in ("raw", "z"))
    assert raw.data.shape == standard.data.shape == (120, 130, 110)
    assert standard.record.std > 0.8


def test_the_whole_body_of_the_cases_says_what_it_lost(case):
    scan = read_scan(case / "whole_body_cut_to_200mm" / "in" / "body.nii.gz")
    assert "79% of its height" in prepare_scan(scan, Preprocessing()).record.notes[0]
