"""SimMIM: tokens for masked blocks, a linear head, an L1 loss on masked voxels alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mdae.corruption import draw_count
from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.simmim import SimMIM, SimMIMConfig, voxel_shuffle
from mdae.seeding import torch_generator
from tests.contract import losses_of_training

SHAPE = (12, 20, 16)
BLOCK = (4, 8, 5)  # 5 does not divide 16


def generators(number: int, seed: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "mask", index) for index in range(number)]


def volumes(number: int = 3, channels: int = 1) -> torch.Tensor:
    return torch.randn((number, channels, *SHAPE), generator=torch_generator(0, "volumes"))


def objective(channels: int = 1, block: tuple[int, int, int] = BLOCK) -> SimMIM:
    net = ResidualUNet(UNetConfig(in_channels=channels, features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))
    built = build_objective("simmim", net, changes={"block": block})
    assert isinstance(built, SimMIM)
    with torch.no_grad():
        for index, parameter in enumerate(p for p in built.parameters() if p.requires_grad):
            jitter = torch.randn(parameter.shape, generator=torch_generator(0, "jitter", index))
            parameter.add_(0.1 * jitter)
    return built


def test_a_fixed_number_of_blocks_is_masked_every_choice_alike():
    grid = (2, 2, 2)
    masks = torch.stack([draw_count(3, grid, torch_generator(0, "m", index)) for index in range(600)])
    assert (masks.sum((1, 2, 3, 4)) == 3).all()
    assert (masks.float().mean(0) - 3 / 8).abs().max() < 0.08
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == math.comb(8, 3)
    assert draw_count(8, grid, torch_generator(0, "m")).sum() == 7, "one is left"
    assert draw_count(0, grid, torch_generator(0, "m")).sum() == 1, "one is masked"
    assert draw_count(1, (1, 1, 1), torch_generator(0, "m")).all()


def test_the_mask_covers_the_ratio_of_blocks_rounded_up():
    mask = objective().draw_mask(SHAPE, generators(2))
    grid = [-(-side // edge) for side, edge in zip(SHAPE, BLOCK, strict=True)]
    for sample in mask[:, 0].numpy():
        masked = 0
        for place in itertools.product(*map(range, grid)):
            box = sample[tuple(slice(p * e, (p + 1) * e) for p, e in zip(place, BLOCK, strict=True))]
            assert box.all() or not box.any()
            masked += bool(box.all())
        assert masked == math.ceil(0.6 * math.prod(grid))


def test_loss_and_input_match_the_paper_voxel_by_voxel():
    built, clean = objective(2), volumes(channels=2)
    known = torch.rand(3, 1, *SHAPE, generator=torch_generator(0, "known")) < 0.8
    output = built(clean, generators(3), known)
    mask = built.draw_mask(SHAPE, generators(3)).numpy()
    token = built.mask_token.detach().numpy()
    seen = np.empty(clean.shape, dtype=np.float32)
    for b, c, x, y, z in itertools.product(range(3), range(2), *map(range, SHAPE)):
        inside = token[c, x % BLOCK[0], y % BLOCK[1], z % BLOCK[2]]
        seen[b, c, x, y, z] = inside if mask[b, 0, x, y, z] else clean[b, c, x, y, z]
        if not known[b, 0, x, y, z]:
            seen[b, c, x, y, z] = 0
    with torch.no_grad():
        prediction = built.predict(torch.from_numpy(seen)).numpy()
    counted = mask & known.numpy()
    errors = [
        np.abs(p - x)[:, m[0]].mean() for p, x, m in zip(prediction, clean.numpy(), counted, strict=True)
    ]
    assert output.loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_head_spreads_its_channels_over_the_voxels_below():
    x = torch.randn(2, 2 * 27, 2, 3, 4, generator=torch_generator(0, "x"))
    spread = voxel_shuffle(x, 3)
    assert spread.shape == (2, 2, 6, 9, 12)
    for c, i, j, k in itertools.product(range(2), range(3), range(3), range(3)):
        assert torch.equal(spread[:, c, i::3, j::3, k::3], x[:, ((c * 3 + i) * 3 + j) * 3 + k])


def test_what_is_masked_never_reaches_the_prediction():
    built, clean = objective().eval(), volumes()
    mask = built.draw_mask(SHAPE, generators(3))
    one = built(clean, generators(3)).pictures["reconstructed"]
    other = built(torch.where(mask, 9.0, clean), generators(3)).pictures["reconstructed"]
    assert torch.equal(one, other)
    third = built(torch.where(mask, clean, 9.0), generators(3)).pictures["reconstructed"]
    assert not torch.equal(one, third)


def test_the_token_learns_the_decoder_does_not_and_visible_voxels_have_no_loss():
    built, clean = objective(), volumes()
    built(clean, generators(3)).loss.backward()
    assert built.mask_token.grad is not None and built.mask_token.grad.any()
    untrained = (*built.network.decoder.parameters(), *built.network.film.parameters())
    assert not any(parameter.requires_grad for parameter in untrained)
    mask = built.draw_mask(SHAPE, generators(3))
    target = clean.clone().requires_grad_()
    with torch.no_grad():
        prediction = built.predict(torch.where(mask, built._tokens(clean), clean))
    moved = built(torch.where(mask, prediction, target), generators(3)).loss
    assert moved.item() == pytest.approx(0, abs=1e-6), "masked voxels predicted right are no loss at all"


def test_the_fold_is_the_encoder_that_was_trained_and_its_loss_falls():
    built = objective(block=(4, 4, 4))
    clean = volumes().cumsum(2) / 3
    losses = losses_of_training(built, clean, generators, 15)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    for t in (0.0, 0.7):
        for one, other in zip(built.network.at(t).encoder(clean), built.network.encoder(clean), strict=True):
            assert torch.equal(one, other)


def test_the_token_starts_small_and_follows_from_the_generator():
    first, second = (objective().mask_token for _ in range(2))
    assert torch.equal(first, second)
    net = ResidualUNet(UNetConfig(features=(4, 6), blocks=(1, 1), time_dim=8))
    token = build_objective("simmim", net, generator=torch_generator(1, "heads")).mask_token
    assert token.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.0}, {"block": (0, 4, 4)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SimMIMConfig(**wrong)
