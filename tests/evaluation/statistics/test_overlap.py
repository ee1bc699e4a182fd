"""Dice and NSD against a slow reading with distance transforms, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mdae.evaluation.statistics.overlap import dice, overlap_scores, surface_dice
from mdae.seeding import numpy_generator

EMPTY = np.zeros((6, 6, 6), dtype=bool)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with one of six neighbours outside of the mask, one by one."""
    padded = np.pad(mask, 1)
    found = np.zeros_like(mask)
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    for x, y, z in np.argwhere(mask):
        found[x, y, z] = not all(padded[x + 1 + i, y + 1 + j, z + 1 + k] for i, j, k in steps)
    return found


def slow_surface_dice(
    one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> float:
    first, second = surface(one), surface(other)
    to_second = ndimage.distance_transform_edt(~second, sampling=spacing)[first]
    to_first = ndimage.distance_transform_edt(~first, sampling=spacing)[second]
    close = (to_second <= tolerance).sum() + (to_first <= tolerance).sum()
    return float(close / (len(to_second) + len(to_first)))


def blob(seed: int, shape: tuple[int, int, int] = (17, 12, 14)) -> np.ndarray:
    """A smooth made-up mask, of several pieces, that may touch the border."""
    noise = ndimage.gaussian_filter(numpy_generator(seed, "blob").standard_normal(shape), 1.5)
    return np.asarray(noise > np.quantile(noise, 0.8))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 3.0])] * 3),
    tolerance=st.sampled_from([0.0, 0.9, 1.0, 2.1]),
    shift=st.integers(0, 3),
)
def test_the_same_as_a_slow_reading(seed, spacing, tolerance, shift):
    one, other = blob(seed), np.roll(blob(seed), shift, axis=0) | (shift == 2) & blob(seed + 1)
    expected = slow_surface_dice(one, other, spacing, tolerance)
    assert surface_dice(one, other, spacing, tolerance) == pytest.approx(expected, abs=1e-6)
    assert dice(one, other) == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()), abs=1e-6)


def test_by_hand():
    one, other = EMPTY.copy(), EMPTY.copy()
    one[1:3, 1:3, 1:3] = True  # 8 voxels, all of them surface
    other[2:4, 1:3, 1:3] = True  # one step along the first axis: 4 in common
    assert dice(one, other) == pytest.approx(0.5)
    assert surface_dice(one, other, (1.0, 1.0, 1.0), 0.5) == pytest.approx(0.5)
    assert surface_dice(one, other, (1.0, 1.0, 1.0), 1.0) == 1.0
    assert surface_dice(one, other, (1.1, 1.0, 1.0), 1.0) == pytest.approx(0.5)
    assert surface_dice(one, other, (1.0, 1.1, 1.1), 1.0) == 1.0


def test_empty_masks_count_as_the_organisers_of_brats_do():
    some = EMPTY.copy()
    some[2, 2, 2] = True
    assert dice(EMPTY, EMPTY) == surface_dice(EMPTY, EMPTY, (1, 1, 1)) == 1.0
    for pair in ((some, EMPTY), (EMPTY, some)):
        assert dice(*pair) == surface_dice(*pair, (1, 1, 1)) == 0.0


def test_a_mask_at_the_border_and_the_whole_volume():
    assert surface_dice(~EMPTY, ~EMPTY, (1, 1, 1)) == dice(~EMPTY, ~EMPTY) == 1.0
    assert surface_dice(~EMPTY, blob(0, (6, 6, 6)), (1.0, 1.0, 1.0)) == pytest.approx(
        slow_surface_dice(~EMPTY, blob(0, (6, 6, 6)), (1, 1, 1), 1.0)
    )


def test_every_class_of_a_label_map_overlapping_ones_too():
    reference = np.zeros((8, 8, 8), dtype=np.uint8)
    reference[1:5, 1:5, 1:5], reference[2:4, 2:4, 2:4] = 1, 2
    prediction = reference.copy()
    prediction[2:4, 2:4, 2:4] = 1
    scores = overlap_scores(prediction, reference, {"whole": (1, 2), "core": (2,)}, (1.0, 1.0, 1.0), 1.0)
    assert scores == {"dice_whole": 1.0, "nsd_whole": 1.0, "dice_core": 0.0, "nsd_core": 0.0}
