"""Damaged files: whatever is flipped, cut or overwritten, `prepare` sets the scan aside or stores sound voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.store import Store
from tests.conftest import COARSE


def head() -> np.ndarray:
    place = np.moveaxis(np.indices((14, 15, 16)), 0, -1) - 7
    return np.where((place**2).sum(-1) < 30, 50.0 + place[..., 0], 0.0).astype(np.float32)


@pytest.fixture(scope="module", params=[".nii", ".nii.gz", ".mgz", ".nrrd"])
def sound(request, tmp_path_factory) -> tuple[str, bytes]:
    """A suffix and the bytes of a sound file."""
    path = tmp_path_factory.mktemp("sound") / f"x{request.param}"
    affine = np.diag([8.0, 8, 8, 1])
    if request.param == ".nrrd":
        nrrd.write(
            str(path), head(), {"space": "RAS", "space directions": affine[:3, :3], "space origin": [0, 0, 0]}
        )
    else:
        nib.save((nib.MGHImage if request.param == ".mgz" else nib.Nifti1Image)(head(), affine), path)
    return request.param, path.read_bytes()


damage = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
    st.tuples(st.just("flip"), st.floats(0, 0.03), st.integers(1, 255)),  # of the header
    st.tuples(st.just("blank"), st.floats(0, 1), st.integers(1, 64)),
)


def damaged(raw: bytes, damages: list[tuple[str, float, int]]) -> bytes:
    out = bytearray(raw)
    for kind, where, value in damages:
        place = min(int(where * len(out)), max(0, len(out) - 1))
        if kind == "cut":
            del out[place:]
        elif kind == "flip" and out:
            out[place] ^= value
        elif kind == "blank":
            out[place : place + value] = bytes(len(out[place : place + value]))
    return bytes(out)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages=st.lists(damage, min_size=1, max_size=3))
def test_never_a_traceback_never_a_poisoned_store(sound, tmp_path_factory, damages):
    suffix, raw = sound
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "in").mkdir()
    (folder / "in" / f"good{suffix}").write_bytes(raw)
    (folder / "in" / f"bad{suffix}").write_bytes(damaged(raw, damages))
    summary = prepare(
        PrepareConfig(source=folder / "in", store=folder / "store", preprocessing=COARSE, workers=1)
    )
    assert summary.prepared + len(summary.set_aside) == 2
    assert not any("unforeseen" in row.reason for row in summary.set_aside), summary.set_aside
    assert all("\n" not in row.reason for row in summary.set_aside)
    for scan in Store.open(folder / "store").scans:
        assert np.isfinite(Store.open(folder / "store").read(scan)).all()
    assert not list(Path(folder / "store").rglob("*.part.*"))
