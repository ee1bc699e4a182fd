"""The network with a head on all maps: it starts as the readout, and each part learns at its own rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.fitted import network_of, voxel_features
from mdae.evaluation.segment.network import MapNetwork, SegmentationNetwork
from mdae.evaluation.segment.segmenter import draw_points
from mdae.evaluation.segment.volumes import Volume, labelled
from mdae.evaluation.voxel_probe.context import NUM_SCALES
from mdae.evaluation.voxel_probe.features import features_at
from mdae.evaluation.voxel_probe.regression import fit_readout
from tests.evaluation.segment import made


def two_contrasts(number: int):
    """A subject whose second contrast is the first one turned round."""
    prepared, mask = made.scan(number, shape=(16, 16, 16))
    own = labelled(f"p{number}", prepared, mask)
    data = np.concatenate([own.volume.data, -own.volume.data])
    volume = Volume(data, (own.volume.background[0], -own.volume.background[0]), own.volume.spacing_mm)
    return type(own)(own.subject, volume, own.labels)


def test_maps_are_the_pretrained_networks_own():
    model = made.model()
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = MapNetwork(model).eval()(x)
    stages = model.network.at(0.0).encoder(x)
    last = model.network.at(0.0).maps(stages)[-1]
    assert [own.shape[1] for own in maps] == [8, 16, 32, 64, 32, 16, 8]
    torch.testing.assert_close(maps[: len(stages)], stages)
    torch.testing.assert_close(maps[-1], last)


@pytest.mark.parametrize(("contrasts", "channels"), [(1, ()), (2, ()), (2, ("T1w", "FLAIR"))])
def test_at_step_0_it_is_the_readout(contrasts, channels):
    model = made.model(channels=channels)
    make = two_contrasts if contrasts == 2 else lambda n: labelled(f"p{n}", *made.scan(n, shape=(16, 16, 16)))
    subjects = [make(n) for n in range(2)]
    features = voxel_features(model, context=True, device="cpu")
    readout = fit_readout(draw_points(subjects, features, 80, 0), 3)
    network = network_of(model, features, readout, contrasts, "cpu")
    volume = make(5).volume
    with torch.no_grad():
        scores = network(torch.from_numpy(volume.data)[None])[0].numpy()
    scores = scores + features.linear_of_context(volume, readout.weights)
    every = np.stack(np.indices(volume.shape), axis=-1).reshape(-1, 3)
    expected = readout.scores(features.at(volume, every)).T.reshape(3, 16, 16, 16)
    np.testing.assert_allclose(scores, expected, atol=2e-3)


def test_contrasts_that_are_seen_at_once_have_features_together_and_intensities_each():
    subject, points = two_contrasts(0), np.array([[3, 4, 5], [8, 8, 8]])
    one = voxel_features(made.model(), context=True, device="cpu").at(subject.volume, points)
    both = voxel_features(made.model(channels=("T1w", "FLAIR")), context=True, device="cpu")
    found, width = both.at(subject.volume, points), both.num_encoder
    expected = features_at(both.encoder, subject.volume.data, subject.volume.background, points)
    assert found.shape == (2, both.number(2)) and np.array_equal(found[:, :width], expected)
    apart = [
        one[:, width : width + NUM_SCALES],
        one[:, 2 * width + NUM_SCALES :],
    ]  # of each contrast, and the place
    np.testing.assert_array_equal(found[:, width:], np.concatenate(apart, axis=1))


def test_early_layers_learn_slower_and_every_weight_once():
    network = SegmentationNetwork(made.model(), 3, 1)
    groups = network.layerwise(FewLabelOptions(lr=1e-3, layer_decay=0.5, head_lr=7.0))
    peaks = list(dict.fromkeys(group["peak"] for group in groups))
    assert peaks[-1] == 7.0 and peaks[-2] == 1e-3
    assert all(b == pytest.approx(2 * a) for a, b in zip(peaks[:-2], peaks[1:-1], strict=True))
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
