"""Whole volumes: whatever their size, mirrored or not; and quick looks at large ones, which count as the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdae.evaluation.segment import windows
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.network import SegmentationNetwork
from mdae.evaluation.segment.patches import Example
from mdae.evaluation.segment.windows import look_at, scores_of
from tests.evaluation.segment import made

OPTIONS = FewLabelOptions(overlap=0.5)


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    own = SegmentationNetwork(made.model(), 3, 1).eval()
    with torch.no_grad():
        own.weight.copy_(0.1 * torch.randn(own.weight.shape, generator=torch.Generator().manual_seed(0)))
    return own


class Brightness(torch.nn.Module):
    """In the network's place: organs are bright, the left one lies in the first half."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.maps, self.bias = network.maps, network.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), x - 1.0, x - 1.1], dim=1)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 20, 16), (9, 30, 12)])
def test_volumes_of_any_size_and_what_one_window_sees_is_what_the_network_says(network, shape):
    prepared, _ = made.scan(0, shape)
    volume = windows.Volume(prepared.data[None], (prepared.record.background,), (1.0, 1.0, 1.0))
    found = scores_of(network, volume, OPTIONS)
    assert found.shape == (3, *shape) and np.isfinite(found).all()
    if shape == (16, 16, 16):
        with torch.no_grad():
            expected = network(torch.from_numpy(prepared.data)[None, None])[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_mirrored_it_is_the_same_of_the_mirror_image(network):
    prepared, _ = made.scan(0, (16, 16, 16))
    one, other = (
        windows.Volume(np.ascontiguousarray(data)[None], (0.0,), (1.0, 1.0, 1.0))
        for data in (prepared.data, prepared.data[::-1])
    )
    mirror = replace(OPTIONS, mirror=True)
    found = scores_of(network, other, mirror)[:, ::-1]
    np.testing.assert_allclose(found, scores_of(network, one, mirror), atol=1e-4)


def test_a_quick_look_counts_as_the_whole(network, monkeypatch):
    """In half of the windows nothing is; some of those stand for all of them."""
    own = made.subjects(1)[0]
    wide = np.zeros((24, 20, 400), dtype=np.float32)
    wide[:, :, :16] = own.volume.data[0]
    wide[:, :, 40::2] = 2.0  # called wrongly, evenly all along
    target = np.zeros(wide.shape, dtype=own.labels.dtype)
    target[:, :, :16] = own.labels
    volume = windows.Volume(wide[None], (0.0,), (1.0, 1.0, 1.0))
    example = Example(type(own)("p", volume, target), np.zeros((3, *wide.shape), dtype=np.float32))
    simple = Brightness(network)
    monkeypatch.setattr(windows, "WINDOWS", 10_000)
    whole = np.mean(look_at(simple, example, OPTIONS))  # type: ignore[arg-type]
    monkeypatch.setattr(windows, "WINDOWS", 24)
    quick = np.mean(look_at(simple, example, OPTIONS))  # type: ignore[arg-type]
    assert quick == pytest.approx(whole, rel=0.15)
    assert 0 < whole < 0.2
