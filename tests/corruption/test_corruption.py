"""The two corruptions: against a slow reading of the equations, and as identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.corruption import CorruptionConfig, Schedule, apply, draw, tweedie_score
from mdae.errors import ConfigError
from mdae.seeding import torch_generator
from tests import reference


def generators(number: int, seed: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "test", index) for index in range(number)]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    block=st.tuples(*[st.integers(1, 6)] * 3),
    channels=st.integers(1, 3),
    kind=st.sampled_from(["ve", "vp", "flow", "none"]),
    noise_on=st.sampled_from(["visible", "masked"]),
    per_channel=st.booleans(),
    ratio=st.sampled_from([(0.0, 0.0), (0.01, 0.99), (1.0, 1.0)]),
)
def test_matches_the_equations(shape, block, channels, kind, noise_on, per_channel, ratio):
    config = CorruptionConfig(
        schedule=Schedule(kind=kind, sigma_max=3.0),
        block=block,
        per_channel=per_channel,
        noise_on=noise_on,
        p_min=ratio[0],
        p_max=ratio[1],
    )
    clean = torch.randn((2, channels, *shape), generator=torch_generator(1, "clean"))
    drawn = draw(config, (channels, *shape), generators(2))
    corrupted = apply(config, clean, drawn)
    for index in range(2):
        mask = reference.mask_of_blocks(drawn.blocks[index].numpy(), shape, block)
        alpha, sigma = reference.coefficients(kind, 3.0, float(drawn.t[index]))
        noise = None if drawn.noise is None else drawn.noise[index].numpy()
        expected = reference.corrupt(clean[index].numpy(), mask, noise, alpha, sigma, noise_on)
        assert np.array_equal(corrupted.mask[index].numpy(), mask)
        np.testing.assert_allclose(corrupted.input[index].numpy(), expected, atol=1e-6, rtol=1e-6)


def test_masked_voxels_are_exactly_zero_even_where_the_volume_is_not_finite():
    config = CorruptionConfig(p_min=1.0, p_max=1.0)
    clean = torch.full((1, 1, 8, 8, 8), torch.inf)
    corrupted = apply(config, clean, draw(config, (1, 8, 8, 8), generators(1)))
    assert torch.equal(corrupted.input, torch.zeros_like(clean))


def test_apply_is_pure_and_a_draw_replays():
    config = CorruptionConfig()
    clean = torch.randn(2, 1, 20, 20, 20, generator=torch_generator(0, "clean"))
    before = clean.clone()
    drawn = draw(config, (1, 20, 20, 20), generators(2))
    first, second = apply(config, clean, drawn), apply(config, clean, drawn)
    again = apply(config, clean, draw(config, (1, 20, 20, 20), generators(2)))
    assert torch.equal(clean, before)
    assert torch.equal(first.input, second.input)
    assert torch.equal(first.input, again.input)


def test_a_batch_is_the_stack_of_its_samples():
    config = CorruptionConfig()
    shape = (2, 20, 17, 33)
    together = draw(config, shape, generators(3))
    for index in range(3):
        alone = draw(config, shape, generators(3)[index : index + 1])
        assert torch.equal(alone.blocks[0], together.blocks[index])
        assert torch.equal(alone.noise[0], together.noise[index])
        assert alone.t[0] == together.t[index]


def test_switching_the_noise_off_moves_no_mask():
    shape = (1, 32, 32, 32)
    loud = draw(CorruptionConfig(), shape, generators(4))
    silent = draw(CorruptionConfig(schedule=Schedule(sigma_max=0.0)), shape, generators(4))
    assert torch.equal(loud.blocks, silent.blocks)
    assert silent.noise is None
    assert torch.equal(silent.t, torch.zeros(4))


def test_ratio_and_time_are_uniform_per_sample():
    config = CorruptionConfig(p_min=0.2, p_max=0.8)
    drawn = draw(config, (1, 1, 1, 1), generators(2000))
    for values, low, high in ((drawn.ratio, 0.2, 0.8), (drawn.t, 0.0, 1.0)):
        assert low <= values.min() and values.max() <= high
        expected = torch.linspace(low, high, 2000)
        assert (values.sort().values - expected).abs().max() < 0.04 * (
            high - low
        )  # Kolmogorov-Smirnov, p ~ 0.003


def test_blocks_are_independent_with_the_drawn_probability():
    config = CorruptionConfig(p_min=0.3, p_max=0.3, block=(1, 1, 1))
    blocks = draw(config, (1, 8, 8, 8), generators(200)).blocks.float()
    counts = blocks.sum(dim=(1, 2, 3, 4))
    assert counts.mean() == pytest.approx(0.3 * 512, rel=0.02)
    assert counts.var() == pytest.approx(512 * 0.3 * 0.7, rel=0.3)  # binomial: no fixed count
    pairs = torch.corrcoef(blocks.flatten(1)[:, :20].T)
    assert (pairs - torch.eye(20)).abs().max() < 0.3


def test_channels_share_a_mask_unless_asked():
    shape = (3, 16, 16, 16)
    config = CorruptionConfig(block=(4, 4, 4), p_min=0.5, p_max=0.5)
    assert draw(config, shape, generators(1)).blocks.shape == (1, 1, 4, 4, 4)
    own = draw(
        CorruptionConfig(block=(4, 4, 4), p_min=0.5, p_max=0.5, per_channel=True), shape, generators(1)
    )
    assert not torch.equal(own.blocks[:, 0], own.blocks[:, 1])


def test_two_samples_never_draw_the_same():
    drawn = draw(CorruptionConfig(), (1, 4, 4, 4), generators(500))
    assert len(set(drawn.t.tolist())) == 500
    assert len({tuple(z.flatten()[:3].tolist()) for z in drawn.noise}) == 500


def test_schedules_end_where_they_should():
    ends = torch.tensor([0.0, 1.0])
    assert Schedule(kind="ve", sigma_max=4.0).at(ends).sigma.tolist() == [0.0, 4.0]
    for kind in ("vp", "flow"):
        alpha, sigma = Schedule(kind=kind).at(ends)
        assert (alpha.tolist(), sigma.tolist()) == ([1.0, 0.0], [0.0, 1.0])
    t = torch.linspace(0, 1, 11)
    alpha, sigma = Schedule(kind="vp").at(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(11))


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_tweedie_gives_the_score_of_a_gaussian(kind):
    """For X0 ~ N(0, 1) the best prediction is known and the score of X_t is -X_t / (alpha^2 + sigma^2)."""
    t = torch.tensor([0.2, 0.5, 0.9])
    coefficients = Schedule(kind=kind, sigma_max=2.0).at(t)
    alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in coefficients)
    noised = torch.randn(3, 1, 4, 4, 4, generator=torch_generator(0, "x"))
    best = alpha / (alpha**2 + sigma**2) * noised
    expected = -noised / (alpha**2 + sigma**2)
    torch.testing.assert_close(tweedie_score(best, noised, coefficients), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"p_min": 0.9, "p_max": 0.1},
        {"p_max": 1.5},
        {"t_min": -0.1},
        {"block": (0, 1, 1)},
        {"noise_on": "all"},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError):
        CorruptionConfig(**options)


@pytest.mark.parametrize("options", [{"kind": "cosine"}, {"sigma_max": -1.0}, {"sigma_max": float("nan")}])
def test_impossible_schedules_are_refused(options):
    with pytest.raises(ConfigError):
        Schedule(**options)
