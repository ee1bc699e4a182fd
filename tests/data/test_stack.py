"""Contrasts of a session on one grid, and as the channels of one volume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from mdae.data.grid import Grid
from mdae.data.io import read_scan, write_nifti
from mdae.data.native import to_native
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.data.stack import backgrounds, read, read_crop, stacks
from mdae.data.store import Store
from mdae.errors import ConfigError, DataError, ScanError
from tests.conftest import COARSE
from tests.data.test_geometry import AFFINES, centre_of_spot, head_with_a_point

CHANNELS = ("T1w", "FLAIR")


def config(source: Path, store: Path, **changes: object) -> PrepareConfig:
    return PrepareConfig(source=source, store=store, **{"preprocessing": COARSE, "workers": 1, **changes})


@pytest.fixture
def few(cohort, tmp_path) -> Path:
    """Three of the cohort, of whom the second has no FLAIR."""
    for name in ("sub-A0001", "sub-Müller-05", "sub-x-012"):
        shutil.copytree(cohort / name, tmp_path / "bids" / name)
    (tmp_path / "bids" / "sub-Müller-05" / "anat" / "sub-Müller-05_FLAIR.nii.gz").unlink()
    return tmp_path / "bids"


def shifted(path: Path) -> None:
    """Cut a scan at one side, so that its box and its grid are others."""
    scan = read_scan(path)
    affine = scan.affine.copy()
    affine[:3, 3] += scan.affine[:3, :3] @ [2, 1, 0]
    write_nifti(path, scan.data[2:, 1:], affine)


# -- prepare --together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LPS", "oblique"])
def test_a_point_lands_where_the_other_scan_has_it(name):
    """Whatever direction the scan has: on the grid of a turned one, within half a voxel, z-scored by its own head."""
    other, spot = head_with_a_point(AFFINES["oblique"])
    reference = prepare_scan(other, Preprocessing(spacing_mm=(3.0, 3.0, 3.0)))
    scan, here = head_with_a_point(AFFINES[name])
    scan.affine[:3, 3] += spot - here  # one head, seen by two scans
    alone = prepare_scan(scan, Preprocessing(spacing_mm=(3.0, 3.0, 3.0)))
    found = prepare_scan(
        scan, Preprocessing(spacing_mm=(3.0, 3.0, 3.0)), onto=Grid(reference.record.shape, reference.affine)
    )
    assert found.data.shape == reference.data.shape and np.array_equal(found.affine, reference.affine)
    assert np.abs(centre_of_spot(np.nan_to_num(found.data, nan=-1), found.affine) - spot).max() < 1.5
    assert (found.record.mean, found.record.std) == (alone.record.mean, alone.record.std)
    assert found.record.unknown == pytest.approx(np.isnan(found.data).mean()) and not found.record.own_grid
    if name == "oblique":
        assert to_native(np.nan_to_num(found.data), found.record).shape == scan.data.shape
    else:
        with pytest.raises(ScanError, match="turned against"):
            to_native(found.data, found.record)


def test_on_its_own_grid_it_is_what_it_is_alone():
    scan, _ = head_with_a_point(AFFINES["LPS"])
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    alone = prepare_scan(scan, contract)
    again = prepare_scan(scan, contract, onto=Grid(alone.record.shape, alone.affine))
    inner = (slice(3, -3),) * 3  # at the crop's edge the one continues, the other has neighbours
    np.testing.assert_allclose(again.data[inner], alone.data[inner], atol=0.01)
    np.testing.assert_allclose(
        [
            axis.offset + start
            for axis, start in zip(alone.record.axes(), alone.record.crop_start, strict=True)
        ],
        [axis.offset for axis in again.record.axes()],
        atol=1e-6,
    )


def test_what_a_scan_does_not_reach_is_unknown():
    scan, _ = head_with_a_point(AFFINES["RAS"])
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    reference = prepare_scan(scan, contract)
    half = replace(scan, data=scan.data[:, :, :120])
    found = prepare_scan(half, contract, onto=Grid(reference.record.shape, reference.affine))
    height = (120 - 0.5) * voxel_sizes(scan.affine)[2] + scan.affine[2, 3]
    z = reference.affine[2, 2] * np.arange(found.data.shape[2]) + reference.affine[2, 3]
    unknown = np.isnan(found.data).all(axis=(0, 1))
    assert np.array_equal(unknown, z > height) and unknown.any()


def test_sessions_share_a_grid_and_the_command_again_does_nothing(few, tmp_path):
    shifted(few / "sub-A0001" / "anat" / "sub-A0001_FLAIR.nii.gz")
    prepare(config(few, tmp_path / "store", together=True, workers=2))
    store = Store.open(tmp_path / "store")
    for own in stacks(store, CHANNELS):
        records = [store.record(scan) for scan in own.present]
        assert len({record.shape for record in records}) == 1
        assert all(record.affine == records[0].affine for record in records)
        assert [scan.together for scan in own.present] in ([own.scan_id] * 2, [""])
    assert prepare(config(few, tmp_path / "store", together=True)).prepared == 0
    with pytest.raises(ConfigError, match="give --together again"):
        prepare(config(few, tmp_path / "store"))


def test_a_new_first_scan_moves_the_others_to_its_grid(few, tmp_path):
    name = few / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    shifted(name)
    kept = name.rename(tmp_path / "kept.nii.gz")
    prepare(config(few, tmp_path / "store", together=True))
    kept.rename(name)
    assert prepare(config(few, tmp_path / "store", together=True)).prepared == 2
    own = stacks(Store.open(tmp_path / "store"), CHANNELS)[0]
    assert own.subject == "A0001" and len(own.present) == 2
    shifted(name)
    assert prepare(config(few, tmp_path / "store", together=True)).prepared == 2, "its grid has changed"
    assert stacks(Store.open(tmp_path / "store"), CHANNELS)


def test_an_unfit_first_scan_gives_its_place_to_the_next(few, tmp_path):
    (few / "sub-x-012" / "anat" / "sub-x-012_T1w.nii.gz").write_bytes(b"no scan")
    done = prepare(config(few, tmp_path / "store", together=True))
    assert [Path(row.path).name for row in done.set_aside] == ["sub-x-012_T1w.nii.gz"]
    found = [own.contrast for own in Store.open(tmp_path / "store").scans if own.subject == "x-012"]
    assert found == ["FLAIR"]
    assert prepare(config(few, tmp_path / "store", together=True)).prepared == 0


# -- stacks -------------------------------------------------------------------------------------------------------


def test_a_stack_is_its_scans_side_by_side_and_nan_where_one_is_lacking(few, tmp_path):
    prepare(config(few, tmp_path / "store", together=True))
    store = Store.open(tmp_path / "store")
    hidden = stacks(store, CHANNELS)
    assert [own.subject for own in hidden] == ["A0001", "Müller-05", "x-012"]
    assert [len(own.present) for own in hidden] == [2, 1, 2]
    whole, lacking = hidden[:2]
    crop = read_crop(store, whole, (-2, 3, 1), (9, 8, 7))
    each = [store.read_crop(scan, (-2, 3, 1), (9, 8, 7)) for scan in whole.present]
    assert crop.dtype == np.float16 and np.array_equal(crop, np.stack(each))
    assert backgrounds(whole) == tuple(scan.background for scan in whole.present)
    assert np.isnan(read_crop(store, lacking, (0, 0, 0), (4, 4, 4))[1]).all()
    assert not read(store, lacking)[1].any() and lacking.unknown == 0.5 and lacking.notes[-1] == "lacks FLAIR"
    assert np.array_equal(read_crop(store, stacks(store, CHANNELS[::-1])[0], (0, 0, 0), (4, 4, 4))[::-1],
                          read_crop(store, whole, (0, 0, 0), (4, 4, 4)))  # fmt: skip
    assert [own.subject for own in stacks(store, CHANNELS, whole=True)] == ["A0001", "x-012"]
    with pytest.raises(DataError, match=r"no scan of contrast T2w.*FLAIR, T1w"):
        stacks(store, ("T1w", "T2w"))


def test_contrasts_on_different_grids_are_refused(few, tmp_path):
    shifted(few / "sub-A0001" / "anat" / "sub-A0001_FLAIR.nii.gz")
    whole = replace(COARSE, crop="none")
    prepare(config(few, tmp_path / "store", preprocessing=whole))
    with pytest.raises(DataError, match=r"1 session lie.* A0001 .*--together") as caught:
        stacks(Store.open(tmp_path / "store"), CHANNELS)
    assert "\n" not in str(caught.value)
    shutil.rmtree(few / "sub-A0001")
    prepare(config(few, tmp_path / "other", preprocessing=whole))
    assert len(stacks(Store.open(tmp_path / "other"), CHANNELS)) == 2, "one grid by the records' affines"


def test_stores_of_before_have_grids_of_their_own(store, tmp_path):
    line = json.loads((store / "manifest.jsonl").read_text().splitlines()[0])
    assert line.pop("together") == ""
    assert type(Store.open(store).scans[0]).from_dict(line).together == ""
