"""Primus: the library's network on the same weights, rotations against a slow reading, and tokens that are left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.interop.nnssl_primus import axes_reversed, library_weights
from mdae.networks import preset
from mdae.networks.attention import angles, rotated
from mdae.networks.primus import Primus, PrimusConfig
from mdae.objectives import build_objective
from mdae.seeding import torch_generator
from tests.contract.networks import built, close, volumes

SMALL = PrimusConfig(embed_dim=24, depth=2, heads=2, token=4, shape=(8, 12, 16), time_dim=8)
SPEC = dataclasses.replace(preset("primus-s"), config=SMALL, patch=(8, 12, 16))
# Operators of torchvision, which comes built for another torch, and which timm imports without need.
OPERATORS = (
    *("nms", "qnms", "roi_align", "_roi_align_backward", "qroi_align", "ps_roi_align"),
    *("_ps_roi_align_backward", "roi_pool", "_roi_pool_backward", "ps_roi_pool"),
    *("_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward"),
)


@pytest.fixture(scope="module")
def library():
    """dynamic-network-architectures' module, which imports timm, which imports torchvision."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            declared.define(f"{name}(Tensor a) -> Tensor")
    return pytest.importorskip(
        "dynamic_network_architectures.architectures.primus", exc_type=(ImportError, RuntimeError)
    )


def theirs(library, config: PrimusConfig) -> torch.nn.Module:
    return library.Primus(
        config.in_channels,
        config.embed_dim,
        (config.token,) * 3,
        config.in_channels,
        eva_depth=config.depth,
        eva_numheads=config.heads,
        input_shape=config.shape,
        init_values=0.1,
        scale_attn_inner=True,
    ).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_librarys_on_the_same_weights(library, channels):
    network = built(SPEC, channels)
    other = theirs(library, network.config)
    other.load_state_dict(library_weights(network.at(0.3)))
    x = torch.randn((2, channels, *SMALL.shape), generator=torch_generator(0, "x"))
    torch.testing.assert_close(network(x, torch.full((2,), 0.3)), other(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("primus-s", "PrimusS"), ("primus-m", "PrimusM")])
def test_presets_are_the_librarys_sizes(library, name, kind):
    config = dataclasses.replace(preset(name).config, shape=(32, 32, 32))
    other = getattr(library, kind)(1, 1, (8, 8, 8), config.shape)
    own = {n: tuple(v.shape) for n, v in library_weights(Primus(config).at(0.0)).items()}
    assert own == {n: tuple(v.shape) for n, v in other.state_dict().items()}


def test_names_that_hold_time_are_refused():
    with pytest.raises(ConfigError, match="fold it"):
        library_weights(Primus(SMALL))


def test_places_turn_pairs_of_channels():
    """Each pair, as a point in the plane, by the token's number along its axis times its frequency."""
    grid, head = (2, 3, 4), 12
    x = torch.randn((1, 1, 24, head), generator=torch_generator(0, "x"))
    out = rotated(x, angles(grid, head, x.device))[0, 0].numpy()
    for token, place in enumerate(np.ndindex(*grid)):
        for axis in range(3):
            for band in range(2):
                angle = place[axis] * 10_000 ** -(band / 2)
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                pair = slice(4 * axis + 2 * band, 4 * axis + 2 * band + 2)
                np.testing.assert_allclose(out[token, pair], turn @ x[0, 0, token, pair].numpy(), atol=1e-5)


def test_with_all_visible_no_token_is_left_out():
    network = built(SPEC)
    x, t = volumes(network), torch.tensor([0.2, 0.9])
    (stage,) = network.sparse_stages(x, torch.ones_like(x, dtype=torch.bool), t)
    close(stage.features, network.stages(x, t)[0])
    assert stage.visible.all()


def test_what_is_hidden_is_computed_nowhere_and_does_not_matter():
    network = built(SPEC)
    x = volumes(network)
    visible = torch.zeros_like(x, dtype=torch.bool)
    visible[0, :, :4, :8] = True
    visible[1, :, 4:, 4:12, 8:] = True  # other numbers of tokens in each sample
    (stage,) = network.sparse_stages(x, visible, None)
    (other,) = network.sparse_stages(torch.where(visible, x, 7.0), visible, None)
    assert torch.equal(stage.features, other.features)
    assert torch.equal(stage.visible[:, :, 0, 0, 0], torch.tensor([[True], [False]]))
    assert not stage.features.masked_select(~stage.visible).any()
    alone = torch.cat([network.sparse_stages(x[i : i + 1], visible[i : i + 1])[0].features for i in range(2)])
    close(stage.features, alone)
    nothing = network.sparse_stages(x, torch.zeros_like(visible), None)[0]
    assert not nothing.features.any() and nothing.features.isfinite().all()


def test_turned_weights_say_of_turned_volumes_the_same():
    network = built(SPEC).at(0.0)
    turned = Primus(dataclasses.replace(SMALL, shape=SMALL.shape[::-1])).at(0.0)
    encoder = axes_reversed(network.encoder.state_dict(), SMALL)
    turned.encoder.load_state_dict(encoder)
    x = volumes(network)
    close(turned.encoder(x.transpose(2, 4))[0].transpose(2, 4), network.encoder(x)[0])
    again = axes_reversed(encoder, turned.config)
    assert all(torch.equal(again[name], value) for name, value in network.encoder.state_dict().items())


def test_other_sizes_are_seen_through_interpolated_places():
    network = built(SPEC)
    assert network(torch.zeros(1, 1, 16, 8, 8)).shape == (1, 1, 16, 8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed_dim": 20}, "multiple of 12"),
        ({"token": 6}, "power of 2"),
        ({"depth": 0}, "1 or more"),
        ({"time_dim": 3}, "even"),
        ({"shape": (8, 12, 18)}, "multiple of 4"),
    ],
)
def test_sizes_that_exclude_each_other_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_recomputed_activations_give_the_same_gradients():
    plain, again = built(SPEC), built(SPEC)
    again.recompute()
    x, t = volumes(plain), torch.tensor([0.2, 0.9])
    for network in (plain, again):
        network(x, t).square().mean().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_mae_on_visible_tokens_alone_is_mae_with_attention_to_them_alone():
    """Left-out tokens change the answer; with nothing masked there is nothing to leave out."""
    losses = {}
    for name in ("drop", "show", "drop nothing", "show nothing"):
        ratio = "0.0" if "nothing" in name else "0.5"
        changes = {"p_min": ratio, "p_max": ratio, "block": "4,4,4", "drop_hidden": str("drop" in name)}
        objective = build_objective("mdae", built(SPEC), changes=changes)
        clean = volumes(objective.network)
        generators = [torch_generator(0, "corrupt", i) for i in range(2)]
        output = objective(clean, generators)
        output.loss.backward()
        losses[name] = output.loss.item()
    assert losses["drop"] != losses["show"] and losses["drop nothing"] == pytest.approx(
        losses["show nothing"], abs=1e-5
    )
