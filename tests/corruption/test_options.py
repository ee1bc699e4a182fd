"""What goes beyond the paper's corruption: distributions of time, several block sizes, foreground, and filling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from mdae.corruption import CorruptionConfig, Schedule, Times, apply, draw
from mdae.errors import ConfigError
from mdae.seeding import torch_generator
from tests import reference


def generators(number: int, seed: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "test", index) for index in range(number)]


def volumes(number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Bright texture in one half, flat background in the other."""
    texture = torch.randn((number, *shape), generator=torch_generator(0, "clean")).abs()
    texture[..., shape[-1] // 2 :] = -1.5
    return texture


# -- distributions of time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "law"),
    [
        (Times(), stats.uniform()),
        (Times(kind="low_noise", beta=3.0), stats.beta(1, 3)),
        (Times(kind="low_noise", beta=1.0), stats.uniform()),
    ],
)
def test_times_have_the_quantiles_of_their_law(times, law):
    u = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    np.testing.assert_allclose(times.quantile(u).numpy(), law.ppf(u.numpy()), atol=1e-12)


def test_the_logit_of_a_logit_normal_time_is_normal():
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    t = Times(kind="logit_normal", loc=-0.5, scale=0.7).quantile(u).numpy()
    np.testing.assert_allclose(np.log(t / (1 - t)), stats.norm(-0.5, 0.7).ppf(u.numpy()), atol=1e-10)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "low_noise"])
def test_a_distribution_of_times_moves_no_other_draw_and_stays_in_range(kind):
    config = CorruptionConfig(times=Times(kind=kind), t_min=0.2, t_max=0.6)
    shape = (1, 32, 32, 16)
    plain, ours = draw(CorruptionConfig(), shape, generators(50)), draw(config, shape, generators(50))
    assert torch.equal(plain.blocks, ours.blocks) and torch.equal(plain.noise, ours.noise)
    assert ours.t.min() >= 0.2 and ours.t.max() <= 0.6
    assert torch.equal(ours.t.argsort(), plain.t.argsort()), "a quantile is monotone"
    edges = Times(kind=kind).quantile(torch.tensor([0.0, 1 - 2**-24]))
    assert edges[0] == 0 and edges[1] <= 1 and edges.isfinite().all()


# -- blocks of several sizes --------------------------------------------------------------------------------------


def test_blocks_of_several_sizes_are_whole_cubes_of_the_chosen_edge():
    config = CorruptionConfig(edges=(4, 8, 16), p_min=0.5, p_max=0.5)
    shape = (1, 20, 32, 48)
    clean = torch.ones(60, *shape)
    drawn = draw(config, shape, generators(60))
    mask = apply(config, clean, drawn).mask
    assert set(drawn.choice.tolist()) == {0, 1, 2}
    finer = 0
    for one, choice in zip(mask, drawn.choice.tolist(), strict=True):
        edge = (4, 8, 16)[choice]
        corners = one[:, ::edge, ::edge, ::edge]
        assert torch.equal(reference_repeat(corners, edge, shape[1:]), one)
        double = one[:, :: 2 * edge, :: 2 * edge, :: 2 * edge]
        finer += not torch.equal(reference_repeat(double, 2 * edge, shape[1:]), one)
    assert finer > 50, "and not of the next edge"
    share = mask.float().mean(dim=(1, 2, 3, 4))
    assert share.mean() == pytest.approx(0.5, abs=0.06)


def reference_repeat(corners: torch.Tensor, edge: int, shape: tuple[int, ...]) -> torch.Tensor:
    blocks = corners.numpy()
    return torch.from_numpy(reference.mask_of_blocks(blocks, shape, (edge, edge, edge)))


def test_several_sizes_move_neither_ratio_nor_time_nor_noise():
    shape = (2, 16, 16, 16)
    plain = draw(CorruptionConfig(), shape, generators(4))
    ours = draw(CorruptionConfig(edges=(4, 8), fill="noise"), shape, generators(4))
    for name in ("ratio", "t", "noise"):
        assert torch.equal(getattr(plain, name), getattr(ours, name))


def test_one_edge_alone_is_a_block_of_that_edge():
    config = CorruptionConfig(edges=(6,))
    assert config.unit == (6, 6, 6) and CorruptionConfig(edges=(6, 9)).unit == (3, 3, 3)
    shape = (1, 13, 20, 6)
    assert draw(config, shape, generators(3)).blocks.shape == (3, 1, 3, 4, 1)


# -- foreground ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    block=st.tuples(*[st.integers(1, 12)] * 3),
    channels=st.integers(1, 2),
    per_channel=st.booleans(),
    partly=st.booleans(),
)
@example(shape=(6, 6, 6), block=(1, 2, 1), channels=2, per_channel=False, partly=True)
def test_foreground_matches_a_slow_reading(shape, block, channels, per_channel, partly):
    config = CorruptionConfig(block=block, per_channel=per_channel, foreground=True, p_min=0.5, p_max=0.5)
    clean = volumes(2, (channels, *shape))
    known = torch.rand((2, 1, *shape), generator=torch_generator(0, "known")) < 0.8 if partly else None
    drawn = draw(config, (channels, *shape), generators(2))
    corrupted = apply(config, clean, drawn, known)
    for index in range(2):
        told = np.ones((channels, *shape), dtype=bool)
        if known is not None:
            told &= known[index].numpy()
        taught = reference.taught_voxels(clean[index].numpy(), told, block, per_channel)
        mask = reference.mask_of_blocks(drawn.blocks[index].numpy(), shape, block)
        assert np.array_equal(corrupted.taught[index].numpy(), taught)
        assert np.array_equal(corrupted.mask[index].numpy(), mask & taught)


def test_foreground_moves_no_draw_and_the_ratio_holds_where_there_is_some():
    shape = (1, 32, 32, 32)
    plain = CorruptionConfig(block=(4, 4, 4), p_min=0.5, p_max=0.5)
    config = CorruptionConfig(block=(4, 4, 4), p_min=0.5, p_max=0.5, foreground=True)
    one, other = draw(plain, shape, generators(8)), draw(config, shape, generators(8))
    assert torch.equal(one.blocks, other.blocks)
    clean = volumes(8, shape)
    corrupted = apply(config, clean, other)
    assert not corrupted.mask[..., 16:].any() and not corrupted.taught[..., 16:].any()
    assert corrupted.taught[..., :16].all()
    assert corrupted.mask[..., :16].float().mean() == pytest.approx(0.5, abs=0.03)


def test_foreground_with_several_sizes_goes_by_each_samples_own_blocks():
    config = CorruptionConfig(edges=(2, 8), foreground=True, p_min=1.0, p_max=1.0)
    clean = torch.full((12, 1, 16, 16, 16), -1.0)
    clean[:, :, 3, 3, 3] = 1.0
    drawn = draw(config, (1, 16, 16, 16), generators(12))
    corrupted = apply(config, clean, drawn)
    expected = [(2, 8)[choice] ** 3 for choice in drawn.choice.tolist()]
    assert corrupted.mask.sum((1, 2, 3, 4)).tolist() == expected and len(set(expected)) == 2


def test_a_volume_of_background_alone_is_not_masked_and_teaches_nothing():
    config = CorruptionConfig(foreground=True, p_min=1.0, p_max=1.0, block=(4, 4, 4))
    clean = torch.full((1, 1, 8, 8, 8), 0.3)
    corrupted = apply(config, clean, draw(config, (1, 8, 8, 8), generators(1)))
    assert not corrupted.mask.any() and not corrupted.taught.any()


# -- filling ------------------------------------------------------------------------------------------------------


def test_masked_voxels_are_filled_with_noise_that_tells_nothing_and_the_rest_is_as_before():
    shape = (1, 32, 32, 32)
    plain, config = CorruptionConfig(block=(8, 8, 8)), CorruptionConfig(block=(8, 8, 8), fill="noise")
    clean = volumes(3, shape)
    before, drawn = apply(plain, clean, draw(plain, shape, generators(3))), draw(config, shape, generators(3))
    after, other = apply(config, clean, drawn), apply(config, clean + 5, drawn)
    assert torch.equal(before.mask, after.mask)
    assert torch.equal(before.input[~after.mask], after.input[~after.mask])
    assert torch.equal(after.input[after.mask], other.input[after.mask]), "it does not depend on the volume"
    filled = after.input[after.mask]
    assert filled.mean() == pytest.approx(0, abs=4 / math.sqrt(filled.numel()))
    assert filled.std() == pytest.approx(1, abs=0.03)
    noise = draw(plain, shape, generators(3)).noise[after.mask]
    assert abs(torch.corrcoef(torch.stack([filled, noise]))[0, 1]) < 0.05, "nor is it the other noise"


def test_every_option_keeps_a_batch_the_stack_of_its_samples():
    config = CorruptionConfig(
        edges=(4, 8), foreground=True, fill="noise", times=Times(kind="logit_normal"), per_channel=True
    )
    shape = (2, 12, 16, 20)
    clean = volumes(3, shape)
    together = apply(config, clean, draw(config, shape, generators(3)))
    for index in range(3):
        alone = apply(config, clean[index : index + 1], draw(config, shape, generators(3)[index : index + 1]))
        for name in ("input", "mask", "t", "taught"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[index]), name


@pytest.mark.parametrize(
    "options", [{"edges": (8, 0)}, {"fill": "ones"}, {"fill": "noise", "noise_on": "masked"}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError):
        CorruptionConfig(**options, schedule=Schedule(kind="vp"))


@pytest.mark.parametrize("options", [{"kind": "cosine"}, {"scale": 0.0}, {"beta": -1.0}, {"loc": math.nan}])
def test_impossible_times_are_refused(options):
    with pytest.raises(ConfigError):
        Times(**options)


# -- an exact count -----------------------------------------------------------------------------------------------


@given(p=st.floats(0, 1), seed=st.integers(0, 999))
@example(p=0.55, seed=0)
@settings(max_examples=30, deadline=None)
def test_an_exact_count_masks_the_share_of_blocks_rounded_down(p, seed):
    config = CorruptionConfig(p_min=p, p_max=p, block=(4, 4, 4), exact_count=True)
    blocks = draw(config, (1, 20, 20, 16), generators(1, seed)).blocks
    assert blocks.sum() == max(math.floor(float(np.float32(p)) * 100 + 1e-4), int(np.float32(p) > 0))


def test_an_exact_count_moves_no_other_draw_and_prefers_no_block():
    plain = draw(CorruptionConfig(block=(4, 4, 4)), (1, 8, 8, 8), generators(300))
    exact = draw(CorruptionConfig(block=(4, 4, 4), exact_count=True), (1, 8, 8, 8), generators(300))
    assert torch.equal(plain.noise, exact.noise) and torch.equal(plain.ratio, exact.ratio)
    often = exact.blocks.float().mean(dim=(0, 1))
    assert (often - often.mean()).abs().max() < 4 * math.sqrt(0.25 / 300)


def test_channels_and_several_sizes_have_exact_counts_of_their_own():
    config = CorruptionConfig(p_min=0.5, p_max=0.5, edges=(4, 8), per_channel=True, exact_count=True)
    blocks = draw(config, (2, 16, 16, 16), generators(8)).blocks
    assert blocks.float().mean(dim=(2, 3, 4)).tolist() == [[0.5, 0.5]] * 8
