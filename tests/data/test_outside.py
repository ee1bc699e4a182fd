"""CT is told by its range; a scan unlike what a model was trained on is told of, and noise and nothing too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mdae.data.intensity import PRESETS, Window
from mdae.data.io import Scan
from mdae.data.modality import looks_like_ct
from mdae.data.outside import outside
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.seeding import numpy_generator

SHAPE = (48, 48, 40)
CONTRACT = Preprocessing(spacing_mm=(4.0, 4.0, 4.0))


def noise(sd: float) -> np.ndarray:
    return numpy_generator(0, "noise").normal(0, sd, SHAPE)


def head() -> np.ndarray:
    axes = np.ogrid[tuple(slice(-1, 1, side * 1j) for side in SHAPE)]
    return np.asarray(sum(axis**2 for axis in axes) < 0.6)


def tissue() -> np.ndarray:
    return ndimage.gaussian_filter(noise(1), 2) * 8


MRI = np.where(head(), 400 + 90 * tissue(), np.abs(noise(5)))
CT = np.where(head(), 40 + 20 * tissue() + noise(8), -1000 + noise(8))
SCENES = {
    "MRI": (MRI, False),
    "MRI in integers": (np.rint(MRI), False),
    "z-scored": ((MRI - MRI.mean()) / MRI.std(), False),
    "signed phase": (4096 * np.sin(noise(3)), False),
    "CT": (CT, True),
    "CT padded": (np.where(np.indices(SHAPE)[0] < 6, -3024, CT), True),
    "lung": (np.where(tissue() > 0.5, 30, -850) + noise(40), True),
    "lung alone": (-900 + 40 * tissue() + noise(30), True),
    "CT without air": (np.where(head(), CT, 0), False),
}


@pytest.mark.parametrize("name", SCENES)
def test_ct_is_told_by_its_range(name):
    data, expected = SCENES[name]
    assert looks_like_ct(data.astype(np.float32)) is expected


def scan_of(data: np.ndarray, spacing: tuple[float, ...] = (4.0, 4.0, 4.0), modality: str = "") -> Scan:
    return Scan(data.astype(np.float32), np.diag([*spacing, 1.0]), Path("a.nii"), modality=modality)


def kinds(scan: Scan, contract: Preprocessing = CONTRACT, modalities: tuple[str, ...] = ()) -> str:
    prepared = prepare_scan(scan, contract)
    return "; ".join(outside(prepared.data, prepared.record, contract, (32, 32, 32), modalities))


def test_z_scoring_a_ct_is_warned_of_and_a_window_on_mri():
    assert "--intensity ct-brain" in prepare_scan(scan_of(CT), CONTRACT).record.notes[0]
    windowed = Preprocessing(spacing_mm=(4.0, 4.0, 4.0), intensity=PRESETS["ct-soft"])
    assert prepare_scan(scan_of(CT), windowed).record.notes == ()
    assert prepare_scan(scan_of(CT + 1024, modality="CT"), windowed).record.notes == (), "DICOM says so"
    assert "does not look like CT" in kinds(scan_of(MRI), windowed)


def test_what_is_as_the_model_knows_it_is_told_of_in_no_word():
    assert kinds(scan_of(MRI)) == "" == kinds(scan_of(MRI), modalities=("MR",))
    assert kinds(scan_of(CT), modalities=("CT",)) == ""


@pytest.mark.parametrize(
    ("scan", "said"),
    [
        (scan_of(CT), "not the modality that the model was trained on: CT"),
        (scan_of(MRI, (4.0, 4.0, 30.0)[::1]), ""),
        (scan_of(np.abs(noise(50)) + 100), "like noise"),
        (scan_of(np.abs(noise(50)) + 100, (2.0, 2.0, 8.0)), "like noise"),
        (scan_of(MRI[18:30, :, :]), "a field of view that hardly fills the model's window"),
    ],
)
def test_what_is_outside_is_told_of(scan, said):
    told = kinds(scan)
    assert said in told if said else "coarser" in told


def test_a_volume_that_is_all_but_constant_is_told_of():
    flat = np.full(SHAPE, 100.0)
    flat[20, 20, 20] = 5000
    windowed = Preprocessing(
        spacing_mm=(4.0, 4.0, 4.0), anatomy="none", intensity=Window(0.0, 6000.0, 100.0, 500.0)
    )
    assert "all but constant" in kinds(scan_of(flat, modality="CT"), windowed)


def test_a_model_of_mr_says_so_of_ct():
    assert "CT, not MR" in kinds(scan_of(CT, modality="CT"), modalities=("MR",))
