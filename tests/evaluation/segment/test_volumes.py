"""Volumes: labels and contrasts meet on one grid, and what was found goes back to the file's voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdae.data.intensity import ZScore
from mdae.data.io import Scan
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.evaluation.segment.volumes import (
    UNLABELLED,
    components,
    labelled,
    largest_parts,
    native_probabilities,
    volume_of,
    volumes_ml,
)
from mdae.evaluation.statistics.overlap import dice
from tests.evaluation.segment import made

AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "thick": np.array([[0, 0, 3.0, 5], [0.8, 0, 0, -4], [0, -0.9, 0, 9], [0, 0, 0, 1]]),
    "oblique": np.array([[0.95, -0.3, 0, 5], [0.3, 0.95, 0, 2], [0, 0, 1.2, 0], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("kind", AFFINES)
def test_labels_go_to_the_prepared_grid_and_back(kind):
    prepared, mask = made.scan(1, shape=(30, 26, 22), affine=AFFINES[kind])
    own = labelled("p01", prepared, mask)
    assert own.labels.shape == own.volume.shape
    native = native_probabilities(
        np.stack([own.labels == k for k in range(3)]).astype(np.float32), prepared.record
    )
    assert native.shape[1:] == mask.shape
    for label in (1, 2):
        found, there = native.argmax(axis=0) == label, mask == label
        assert dice(found, there) > 0.9
        apart = np.argwhere(found).mean(axis=0) - np.argwhere(there).mean(axis=0)
        assert np.abs(apart).max() < 0.5, "half a voxel"


def test_what_nobody_labelled_stays_so():
    prepared, mask = made.scan(1)
    mask[mask == 2] = 9
    own = labelled("p01", prepared, mask, ignore=9)
    assert set(np.unique(own.labels)) == {UNLABELLED, 0, 1}
    assert (own.labels == UNLABELLED).sum() == (mask == 9).sum()


def test_contrasts_of_other_boxes_meet_where_their_voxels_lie():
    rng = np.random.default_rng(0)
    data = np.zeros((24, 24, 24), dtype=np.float32)
    data[6:18, 7:17, 5:20] = 100 + rng.standard_normal((12, 10, 15))
    whole, cut = (
        prepare_scan(
            Scan(data, np.eye(4), Path("a.nii")),
            Preprocessing(crop=crop, intensity=ZScore("box"), margin_mm=0),
        )  # type: ignore[arg-type]
        for crop in ("none", "nonzero")
    )
    volume = volume_of([whole, cut])
    one, other = volume.data
    inner = (slice(6, 18), slice(7, 17), slice(5, 20))
    np.testing.assert_allclose(other[inner], cut.data, atol=1e-4)
    assert np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1] > 0.999
    assert (other[0] == np.float32(cut.record.background)).all() and volume.background[
        1
    ] == cut.record.background


def test_millilitres_and_parts_by_hand():
    mask = np.zeros((10, 10, 10), dtype=np.int16)
    mask[1:3, 1:3, 1:3] = 1
    mask[6:9, 6:9, 6:9] = 1
    mask[0, 0, 9] = 2
    affine = nib.affines.from_matvec(np.diag([2.0, 1.0, 1.0]), [100.0, 0.0, 0.0])
    names = ("background", "a", "b")
    assert volumes_ml(mask, affine, names) == pytest.approx({"a": 35 * 2 / 1000, "b": 0.002})
    rows = components(mask, affine, names)
    assert [(row["label"], row["volume_ml"]) for row in rows] == [("a", 0.054), ("a", 0.016), ("b", 0.002)]
    assert (rows[0]["x_mm"], rows[0]["y_mm"]) == (114.0, 7.0)
    kept = largest_parts(mask)
    assert (kept == 1).sum() == 27 and (kept == 2).sum() == 1 and kept[7, 7, 7] == 1
