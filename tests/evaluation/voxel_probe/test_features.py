"""Features of voxels: a readout of coarse maps is a readout of features, and each voxel is seen where it lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdae.data.preprocess import Preprocessing
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.voxel_probe.context import (
    NUM_POSITION,
    NUM_SCALES,
    position_at,
    position_maps,
    scale_maps,
)
from mdae.evaluation.voxel_probe.features import features_at, read_out
from mdae.networks import preset
from mdae.networks.saved import SavedModel
from mdae.seeding import torch_generator


def encoder(patch: tuple[int, int, int] = (16, 16, 16)) -> Encoder:
    network = preset("tiny").new(torch_generator(0, "weights"))
    return Encoder(SavedModel(network, Preprocessing(), patch, provenance={}))


def test_features_at_voxels_are_the_maps_upsampled():
    own = encoder()
    volume = np.random.default_rng(0).standard_normal((16, 16, 16)).astype(np.float32)
    every = np.stack(np.indices(volume.shape), axis=-1).reshape(-1, 3)
    with torch.no_grad():
        stages = own.network(torch.from_numpy(volume)[None, None])
    maps = [F.interpolate(stage, size=volume.shape, mode="trilinear") for stage in stages]
    expected = torch.cat(maps, dim=1)[0].flatten(1).T.numpy()
    np.testing.assert_allclose(features_at(own, volume, 0.0, every), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 11)])
def test_reading_out_maps_is_reading_out_features_wherever_one_window_sees_a_voxel(shape):
    own, rng = encoder(), np.random.default_rng(1)
    volume = rng.standard_normal(shape).astype(np.float32)
    weights = rng.standard_normal((2, own.num_features))
    every = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    expected = (features_at(own, volume, -1.0, every) @ weights.T).T.reshape(2, *shape)
    alone = np.r_[0:8, 16:24] if shape[0] == 24 else np.r_[0:16]  # windows begin at 0 and 8
    found = read_out(own, volume, -1.0, weights)
    np.testing.assert_allclose(found[:, alone], expected[:, alone], rtol=1e-3, atol=1e-3)


def test_a_voxel_is_seen_in_a_window_that_holds_it_though_windows_are_no_cubes():
    own = encoder((16, 16, 8))
    volume = np.zeros((16, 16, 32), dtype=np.float32)
    volume[:, :, 8:16] = np.random.default_rng(1).standard_normal((16, 16, 8))
    whole = features_at(own, volume, 0.0, np.array([[0, 0, 18], [0, 0, 31]]))
    np.testing.assert_array_equal(whole[0], whole[1])  # of windows that are empty, not of the one before them
    assert np.any(whole[0] != features_at(own, volume, 0.0, np.array([[0, 0, 15]]))[0])


def test_the_place_is_relative_to_the_box_and_the_same_at_points_and_everywhere():
    shape = (6, 5, 4)
    every = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    maps = np.stack([np.broadcast_to(one, shape) for one in position_maps(shape)])
    assert len(maps) == NUM_POSITION
    np.testing.assert_allclose(maps.reshape(NUM_POSITION, -1).T, position_at(shape, every), atol=1e-6)
    np.testing.assert_allclose(maps[:3, 0, 0, 0], [-5 / 6, -4 / 5, -3 / 4], atol=1e-6)
    np.testing.assert_allclose(maps[4], maps[0] * maps[1], atol=1e-6)
    np.testing.assert_allclose(maps[-1], maps[2] ** 3, atol=1e-6)


def test_scales_are_in_millimetres():
    """The same bump on voxels of two widths looks the same around its middle."""
    found = []
    for step in (1.0, 0.5):
        side = round(30 / step)
        r = (np.stack(np.indices((side,) * 3)) + 0.5) * step - 15
        volume = np.exp(-(r**2).sum(axis=0) / 8).astype(np.float32)
        middle = tuple(slice(side // 2 - round(4 / step), side // 2 + round(4 / step)) for _ in range(3))
        maps = list(scale_maps(volume, (step,) * 3))
        place = (2 * np.arange(side) + 1) / side - 1
        np.testing.assert_allclose(maps[6], maps[4] * place[:, None], atol=1e-6)  # a blur times y
        found.append([float(one[middle].mean()) for one in maps[::4]])
        assert len(maps) == NUM_SCALES
    blurs = 4  # with the volume itself; edges are per voxel
    np.testing.assert_allclose(found[0][:blurs], found[1][:blurs], rtol=0.05)
