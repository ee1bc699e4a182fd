"""SparK: the sparse encoder against the dense one and against slow readings; nothing hidden is ever seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mdae.corruption import expand_blocks
from mdae.errors import ConfigError
from mdae.networks.blocks import ConvNorm
from mdae.networks.norm import Modulation, norm_act
from mdae.networks.sparse import sparse_conv_norm, sparse_instance_norm
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.spark import SparK, SparKConfig, blockwise, normalised_blocks, whole_volume
from mdae.seeding import torch_generator
from tests.contract import losses_of_training

SHAPE = (16, 24, 16)


def generators(number: int) -> list[torch.Generator]:
    return [torch_generator(0, "mask", index) for index in range(number)]


def volumes(number: int = 3, channels: int = 1, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn((number, channels, *shape), generator=torch_generator(0, "volumes"))


def jittered(module: torch.nn.Module) -> None:
    """Away from the start, where each block's last normalisation is zero."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in module.parameters() if p.requires_grad):
            jitter = torch.randn(parameter.shape, generator=torch_generator(0, "jitter", index))
            parameter.add_(0.1 * jitter)


def objective(channels: int = 1, **changes: object) -> SparK:
    net = ResidualUNet(UNetConfig(in_channels=channels, features=(4, 6, 8), blocks=(1, 2, 1), time_dim=8))
    built = build_objective("spark", net, changes=changes)
    assert isinstance(built, SparK)
    jittered(built)
    return built


def some_visible(share: float = 0.5, block: int = 4) -> torch.Tensor:
    grid = (3, 1, *(side // block for side in SHAPE))
    return expand_blocks(
        torch.rand(grid, generator=torch_generator(0, "v")) < share, SHAPE, (block, block, block)
    )


# -- the sparse encoder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioned", [False, True])
def test_with_nothing_hidden_the_sparse_encoder_is_the_dense_one(conditioned):
    net, x = objective(2).network, volumes(channels=2) + 3
    t = torch.tensor([0.0, 0.4, 1.0]) if conditioned else None
    dense = net.stages(x, t)
    sparse = net.sparse_stages(x, torch.ones(3, 1, *SHAPE, dtype=torch.bool), t)
    for one, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(other.features, one, rtol=1e-5, atol=1e-5)
        assert other.visible.all()


def test_with_nothing_hidden_gradients_are_the_dense_ones_too():
    net, x = objective().network, volumes()
    gradients = []
    for stages in (
        net.encoder(x),
        [s.features for s in net.sparse_stages(x, torch.ones(3, 1, *SHAPE).bool())],
    ):
        net.zero_grad()
        sum((stage**3).mean() for stage in stages).backward()
        gradients.append(
            {name: p.grad.clone() for name, p in net.encoder.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 200.0])
def test_the_normalisation_takes_its_statistics_over_visible_voxels_alone(offset):
    x, visible = volumes(channels=3) * 2 + offset, some_visible()
    visible[2] = False
    visible[2, 0, 3, 4, 5] = True  # a single voxel, whose variance is 0
    weight, bias = torch.tensor([1.0, 0.5, -2.0]), torch.tensor([0.0, 1.0, 3.0])
    film = Modulation(*torch.randn(2, 3, 3, generator=torch_generator(0, "film")))
    got = sparse_instance_norm(x.masked_fill(~visible, 0.0), visible, weight, bias, film).numpy()
    for b, c in itertools.product(range(3), range(3)):
        seen = visible[b, 0].numpy()
        values = x[b, c].double().numpy()[seen]
        normal = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
        normal = normal * weight[c].item() + bias[c].item()
        expected = normal * (film.gamma[b, c].item() + 1) + film.beta[b, c].item()
        np.testing.assert_allclose(got[b, c][seen], expected, rtol=1e-4, atol=1e-4)
        assert not got[b, c][~seen].any()


def test_a_sample_that_shows_nothing_is_zero_and_no_nan():
    x = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
    nothing = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    out = sparse_instance_norm(x, nothing, torch.ones(3), torch.ones(3))
    out.sum().backward()
    assert not out.any() and x.grad is not None and x.grad.isfinite().all()


def test_a_layer_is_a_convolution_over_what_is_visible_voxel_by_voxel():
    """Output at visible voxels only, from visible neighbours only: a submanifold sparse convolution, then the norm."""
    layer = ConvNorm(2, 3, bias=True, act=True)
    jittered(layer)
    x, visible = volumes(1, 2, (5, 6, 4)), torch.rand(1, 1, 5, 6, 4, generator=torch_generator(0, "v")) < 0.5
    weight = layer.conv.weight.detach().double().numpy()
    places = [tuple(place) for place in np.argwhere(visible[0, 0].numpy())]
    sums = np.zeros((len(places), 3))
    for row, (px, py, pz) in enumerate(places):
        for dx, dy, dz in itertools.product((-1, 0, 1), repeat=3):
            if (px + dx, py + dy, pz + dz) in places:
                seen = x[0, :, px + dx, py + dy, pz + dz].double().numpy()
                sums[row] += weight[:, :, dx + 1, dy + 1, dz + 1] @ seen
    normal = (sums - sums.mean(0)) / np.sqrt(sums.var(0) + 1e-5)
    normal = normal * layer.norm.weight.detach().numpy() + layer.norm.bias.detach().numpy()
    expected = np.where(normal > 0, normal, 0.01 * normal)
    with torch.no_grad():
        got = sparse_conv_norm(layer, x.masked_fill(~visible, 0.0), visible)
    np.testing.assert_allclose(
        [got[(0, slice(None), *place)].numpy() for place in places], expected, atol=1e-4
    )
    assert not got[(~visible).expand_as(got)].any()


@pytest.mark.parametrize("block", [4, 2])  # as coarse as the deepest stage, and finer
def test_the_mask_does_not_erode_at_any_stage(block):
    """Hidden stays hidden and zero; a coarse voxel is visible if any of its own voxels is, and no other."""
    net, visible = objective().network, some_visible(0.3, block)
    stages = net.sparse_stages(volumes(), visible)
    for level, stage in enumerate(stages):
        edge = 2**level
        expected = np.zeros((3, *(side // edge for side in SHAPE)), dtype=bool)
        for b, x, y, z in np.argwhere(visible[:, 0].numpy()):
            expected[b, x // edge, y // edge, z // edge] = True
        assert np.array_equal(stage.visible[:, 0].numpy(), expected)
        hidden = (~stage.visible).expand_as(stage.features)
        assert not stage.features[hidden].any() and stage.features[~hidden].any()


def test_dense_convolutions_would_fill_the_holes():
    """What the sparse encoder is for: without it, not one hidden voxel of the deepest stage stays zero."""
    net, visible = objective().network, some_visible(0.3, 4)
    deepest = net.encoder(volumes().masked_fill(~visible, 0.0))[-1]
    hidden = ~net.sparse_stages(volumes(), visible)[-1].visible
    assert deepest.detach()[hidden.expand_as(deepest)].abs().min() > 0


def test_hidden_voxels_change_nothing_and_have_no_gradient():
    net, visible = objective().network, some_visible()
    x = volumes().requires_grad_()
    one = net.sparse_stages(x, visible)
    other = net.sparse_stages(torch.where(visible, x, 9.0), visible)
    assert all(torch.equal(a.features, b.features) for a, b in zip(one, other, strict=True))
    sum((stage.features**3).sum() for stage in one).backward()
    assert not x.grad[~visible].any() and x.grad[visible].any()


def test_no_sample_leaks_into_another():
    net, visible, x = objective().network, some_visible(), volumes()
    together = net.sparse_stages(x, visible)
    for b in range(3):
        alone = net.sparse_stages(x[b : b + 1], visible[b : b + 1])
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.features[b : b + 1], other.features, rtol=1e-5, atol=1e-5)


# -- the objective ------------------------------------------------------------------------------------------------


def test_every_hidden_voxel_of_every_stage_is_its_token():
    built = objective()
    stages = built.network.sparse_stages(volumes(), some_visible())
    for stage, token, dense in zip(stages, built.mask_tokens, built.densified(stages), strict=True):
        for b, x, y, z in itertools.product(range(3), *(range(0, side, 3) for side in dense.shape[2:])):
            shown = stage.visible[b, 0, x, y, z]
            expected = stage.features[b, :, x, y, z] if shown else token
            assert torch.equal(dense[b, :, x, y, z], expected)


def test_what_is_masked_never_reaches_the_prediction_and_tokens_learn():
    built, clean = objective(), volumes()
    visible = ~expand_blocks(built.draw_blocks(SHAPE, generators(3)), SHAPE, built.block)
    one, other = (built.predict(x, visible) for x in (clean, torch.where(visible, clean, 9.0)))
    assert torch.equal(one, other)
    built(clean, generators(3)).loss.backward()
    assert all(token.grad is not None and token.grad.any() for token in built.mask_tokens)


def slow_loss(
    prediction: np.ndarray,
    clean: np.ndarray,
    blocks: np.ndarray,
    known: np.ndarray,
    block: tuple[int, int, int],
) -> float:
    """The paper's loss of one sample (C, D, H, W), block by block in double precision."""
    errors = []
    for place in np.argwhere(blocks):
        box = (slice(None), *(slice(p * e, (p + 1) * e) for p, e in zip(place, block, strict=True)))
        counted = known[box]
        if counted.any():
            target = clean.astype(np.float64)[box][counted]
            variance = target.var(ddof=1) if counted.sum() > 1 else 0.0
            target = (target - target.mean()) / np.sqrt(variance + 1e-6)
            errors.append(np.mean((prediction[box][counted] - target) ** 2))
    return float(np.mean(errors)) if errors else 0.0


@pytest.mark.parametrize("block", [(4, 4, 4), (5, 7, 4)])  # the second divides no side but one
def test_the_loss_matches_the_paper_block_by_block(block):
    built, clean = objective(2, block=block), volumes(channels=2) * 2 + 1
    known = torch.rand(3, 2, *SHAPE, generator=torch_generator(0, "known")) < 0.7
    known[:, :, :4, :7, :8] = False  # whole blocks that nobody knows
    for told in (None, known):
        output = built(clean, generators(3), told)
        counted = torch.ones_like(known) if told is None else told
        blocks = built.draw_blocks(SHAPE, generators(3))
        visible = ~expand_blocks(blocks, SHAPE, block) & counted.any(1, keepdim=True)
        with torch.no_grad():
            prediction = built.predict(clean * counted, visible).numpy()
        losses = [
            slow_loss(prediction[b], clean[b].numpy(), blocks[b, 0].numpy(), counted[b].numpy(), block)
            for b in range(3)
        ]
        assert output.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_blocks_are_cut_and_put_back():
    x = volumes(2, 3, (5, 7, 6))
    cut = blockwise(x, (2, 3, 3))
    assert cut.shape == (2, 3, 3, 2, 3, 3, 2, 3)
    assert torch.equal(whole_volume(cut, x.shape), x)
    assert torch.equal(cut[:, :, 1, :, 2, :1, 1], x[:, :, 2:4, 6:7, 3:6])
    target = normalised_blocks(x, None, (2, 3, 3))
    whole = target.values[:, :, 0, :, 0, :, 0]
    torch.testing.assert_close(whole.mean((1, 2, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.var((1, 2, 3, 4)), torch.ones(2), atol=1e-4, rtol=0)


def test_six_in_ten_blocks_of_the_networks_stride_are_masked():
    built = objective()
    assert built.block == (4, 4, 4)
    blocks = built.draw_blocks(SHAPE, generators(2))
    assert blocks.shape == (2, 1, 4, 6, 4)
    assert blocks.sum((1, 2, 3, 4)).tolist() == [96 - round(96 * 0.4)] * 2


def test_pictures_are_in_the_volumes_own_units():
    built, clean = objective().eval(), volumes() * 5 + 100
    pictures = built(clean, generators(3)).pictures
    assert pictures["reconstructed"].shape == clean.shape
    assert (pictures["reconstructed"] - clean).abs().mean() < 20


def test_the_fold_is_the_encoder_that_was_trained_and_its_loss_falls():
    built, clean = objective(), volumes(3, shape=(8, 12, 8)).cumsum(2).cumsum(3)
    losses = losses_of_training(built, clean, generators, 25)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    net, visible = built.network, torch.rand(3, 1, 8, 12, 8, generator=torch_generator(0, "v")) < 0.5
    plain = net.at(0.0)
    for one, other in zip(
        plain.sparse_stages(clean, visible),
        net.sparse_stages(clean, visible, torch.zeros(3)),
        strict=True,
    ):
        torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-4)


def test_the_sparse_encoder_has_no_parameters_of_its_own():
    built = objective()
    own = {name for name, _ in built.named_parameters() if not name.startswith("network.")}
    assert own == {"mask_tokens.0", "mask_tokens.1", "mask_tokens.2"}
    dense = norm_act(volumes(1, 4), torch.ones(4), torch.zeros(4))
    sparse = sparse_instance_norm(
        volumes(1, 4), torch.ones(1, 1, *SHAPE).bool(), torch.ones(4), torch.zeros(4)
    )
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.0}, {"block": (0, 4, 4)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SparKConfig(**wrong)
