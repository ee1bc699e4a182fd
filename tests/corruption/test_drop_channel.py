"""Whole contrasts that are hidden."""

from __future__ import annotations

import pytest
import torch

from mdae.corruption import CorruptionConfig, Schedule, apply, draw
from mdae.errors import ConfigError
from mdae.seeding import torch_generator

SHAPE = (3, 8, 8, 8)


def generators(number: int) -> list[torch.Generator]:
    return [torch_generator(0, "test", index) for index in range(number)]


def volumes(number: int) -> torch.Tensor:
    return torch.randn((number, *SHAPE), generator=torch_generator(0, "clean"))


@pytest.mark.parametrize("changes", [{}, {"noise_on": "masked"}, {"fill": "noise"}, {"per_channel": True}])
def test_a_dropped_channel_is_zero_and_masked_and_moves_nothing_else(changes):
    clean = volumes(64)
    plain = CorruptionConfig(block=(4, 4, 4), **changes)
    dropping = CorruptionConfig(block=(4, 4, 4), drop_channel=0.5, **changes)
    one, other = (apply(own, clean, draw(own, SHAPE, generators(64))) for own in (plain, dropping))
    gone = other.gone[:, :, 0, 0, 0]
    assert gone.any() and not gone.all(1).any(), "one is always left"
    assert not other.input[gone].any() and other.mask[gone].all()
    assert torch.equal(other.input[~gone], one.input[~gone])
    assert torch.equal(other.mask[~gone], one.mask.expand(clean.shape)[~gone])
    assert torch.equal(other.t, one.t)


def test_each_channel_is_dropped_with_its_probability():
    config = CorruptionConfig(schedule=Schedule(kind="none"), drop_channel=0.3)
    gone = apply(config, volumes(600), draw(config, SHAPE, generators(600))).gone.flatten(1).float()
    expected = 0.3 - 0.3**3 / 3  # all three would be: the one of the greatest fate stays
    assert (gone.mean(0) - expected).abs().max() < 0.06


def test_a_channel_that_is_lacking_is_not_the_one_that_is_left():
    config = CorruptionConfig(drop_channel=0.9)
    known = torch.ones(64, *SHAPE, dtype=torch.bool)
    known[:, 1:] = False
    gone = apply(config, volumes(64), draw(config, SHAPE, generators(64)), known).gone[:, :, 0, 0, 0]
    assert not gone[:, 0].any() and gone[:, 1:].all()


def test_a_draw_of_samples_is_the_draw_of_each():
    config = CorruptionConfig(drop_channel=0.5)
    together = draw(config, SHAPE, generators(3)).fate
    assert torch.equal(together, torch.cat([draw(config, SHAPE, [g]).fate for g in generators(3)]))


@pytest.mark.parametrize("wrong", [-0.1, 1.0])
def test_all_or_less_than_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="drop_channel"):
        CorruptionConfig(drop_channel=wrong)
