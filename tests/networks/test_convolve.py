"""Every way to say a convolution is the convolution, forward and for both gradients; the decoder's join is `cat`."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdae.networks import convolve
from mdae.networks.convolve import Way
from mdae.networks.join import upsampled_beside
from mdae.networks.norm import CHANNELS_LAST, lay_channels_last, using
from mdae.seeding import torch_generator

SHAPES = [
    (5, 1, 3, 3, 3),
    (4, 9, 3, 3, 3),
    (9, 8, 5, 5, 5),
    (1, 9, 1, 1, 1),
    (9, 1, 1, 1, 1),
    (3, 8, 1, 3, 3),
]


def random(*shape: int, purpose: str = "volume") -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_way_is_the_convolution(shape):
    x = random(2, shape[1], 4, 5, 16).contiguous(memory_format=CHANNELS_LAST)
    weight, gradient = random(*shape, purpose="weight"), random(2, shape[0], 4, 5, 16, purpose="gradient")
    leaf, other = x.clone().requires_grad_(), weight.clone().requires_grad_()
    wanted = F.conv3d(leaf, other, None, 1, tuple(side // 2 for side in shape[2:]))
    wanted.backward(gradient)
    found = convolve.ways(shape, 16)
    assert found[0] == Way(1, "window") and len(found) > 1
    for way in found:
        out = convolve.forward(way, x, weight)
        assert out.is_contiguous(memory_format=CHANNELS_LAST)
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(convolve.weight_gradient(way, x, gradient, shape), other.grad)
    assert [way.fold for way in convolve.ways(shape, 15)] == [1]


@pytest.mark.parametrize("shape", [(4, 9, 3, 3, 3), (1, 9, 1, 1, 1)], ids=str)
def test_the_fastest_way_is_chosen_once_for_each_computation(shape, monkeypatch):
    timed = []

    def clock(function):  # type: ignore[no-untyped-def]
        function()
        timed.append(1)
        return 1.0 / len(timed)  # each faster than the one before

    monkeypatch.setattr(convolve, "_milliseconds", clock)
    monkeypatch.setattr(convolve, "CHOSEN", {})
    x, weight = random(1, shape[1], 4, 4, 8).requires_grad_(), random(*shape, purpose="w").requires_grad_()
    for _ in range(2):  # the second time nothing is timed
        found = torch.autograd.grad(convolve._Convolution.apply(x, weight).square().sum(), (x, weight))
    back = (shape[1], shape[0], *shape[2:])
    assert len(timed) == 2 * len(convolve.ways(shape, 8)) + len(convolve.ways(back, 8))
    assert len(convolve.CHOSEN) == 3
    assert all(way.fold > 1 for way in convolve.CHOSEN.values())
    plain = F.conv3d(x, weight, None, 1, shape[-1] // 2).square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, (x, weight)))
    assert found[1].stride() == weight.stride()


@pytest.mark.parametrize("channels", [6, 80])
def test_what_the_decoder_joins_is_the_concatenation(channels):
    if not importlib.util.find_spec("triton"):
        pytest.skip("triton is not installed; on a GPU tests/gpu runs its kernels")
    up = nn.ConvTranspose3d(8, channels, 2, 2)
    x, finer = random(2, 8, 2, 3, 4).float().requires_grad_(), random(2, channels, 4, 6, 8).float()
    finer.requires_grad_()
    leaves = (x, finer, *up.parameters())
    gradient = random(2, 2 * channels, 4, 6, 8, purpose="gradient").float()
    wanted = torch.cat([up(x), finer], dim=1)
    with using("triton"):
        found = upsampled_beside(up, x, finer)
    assert found.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, gradient),
        torch.autograd.grad(wanted, leaves, gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


def test_weights_laid_channels_last_keep_the_strides_of_kernels_of_one_voxel():
    module = nn.Sequential(nn.Conv3d(4, 6, 1), nn.Conv3d(6, 4, 3))
    lay_channels_last(module)
    assert module[0].weight.stride() == (4, 1, 1, 1, 1)
    assert module[1].weight.is_contiguous(memory_format=CHANNELS_LAST)
