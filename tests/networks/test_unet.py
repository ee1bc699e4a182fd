"""The network against dynamic-network-architectures, and the fold."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

from mdae.errors import ConfigError
from mdae.networks import PRESETS, preset
from mdae.networks.norm import Modulation, norm_act
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.seeding import torch_generator

SMALL = UNetConfig(in_channels=2, features=(4, 6, 6, 8), blocks=(1, 2, 1, 1), time_dim=16)


def peer(config: UNetConfig) -> ResidualEncoderUNet:
    stages = len(config.features)
    return ResidualEncoderUNet(
        input_channels=config.in_channels,
        n_stages=stages,
        features_per_stage=list(config.features),
        conv_op=torch.nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_blocks_per_stage=list(config.blocks),
        num_classes=config.in_channels,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch_generator(seed, "w", index)))


def own_keys(network: ResidualUNet) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("film.")}


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, "volume"))


def test_our_weights_in_the_peer_give_our_output():
    ours, theirs = ResidualUNet(SMALL), peer(SMALL)
    for parameter in (*ours.encoder.parameters(), *ours.decoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch_generator(0, "w", parameter.numel()))
    result = theirs.load_state_dict(own_keys(ours), strict=False)
    assert not result.unexpected_keys
    assert all("all_modules" in key or key.startswith("decoder.encoder") for key in result.missing_keys)
    x = volume(2, 2, 16, 24, 32)
    torch.testing.assert_close(ours(x, torch.tensor([0.1, 0.9])), theirs(x), atol=1e-5, rtol=1e-5)


def test_the_peers_weights_in_ours_give_its_output():
    ours, theirs = ResidualUNet(SMALL), peer(SMALL)
    randomise(theirs)
    weights = theirs.state_dict()
    ours.load_state_dict({**ours.state_dict(), **{name: weights[name] for name in own_keys(ours)}})
    x = volume(2, 2, 16, 24, 32)
    torch.testing.assert_close(ours(x, torch.tensor([0.1, 0.9])), theirs(x), atol=1e-5, rtol=1e-5)


def test_resenc_l_has_the_parameters_of_nnu_net():
    ours = PRESETS["resenc-l"].new()
    with torch.device("meta"):
        theirs = peer(PRESETS["resenc-l"].config)
    outside_film = sum(p.numel() for name, p in ours.named_parameters() if not name.startswith("film."))
    assert outside_film == sum(p.numel() for p in theirs.parameters()) == 102_348_965


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_folded_encoder_equals_the_conditioned_one(t):
    network = ResidualUNet(SMALL)
    randomise(network)
    x = volume(2, 2, 16, 16, 24)
    films = network.film(torch.full((2,), t))
    assert max(film.gamma.abs().max() for film in films) > 0.05
    conditioned = network.encoder(x, films[: sum(SMALL.blocks)])
    folded = network.at(t).encoder(x)
    for one, other in zip(folded, conditioned, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_folded_encoder_loads_into_the_peer_without_a_trace_of_time():
    network = ResidualUNet(SMALL)
    randomise(network)
    plain, theirs = network.at(0.0).encoder, peer(SMALL).encoder
    result = theirs.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys and all("all_modules" in key for key in result.missing_keys)
    x = volume(1, 2, 16, 16, 16)
    torch.testing.assert_close(plain(x)[-1], theirs(x)[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.7])
def test_the_folded_encoder_and_decoder_equal_the_conditioned_network(t):
    network = ResidualUNet(SMALL)
    randomise(network)
    x = volume(2, 2, 16, 16, 24)
    folded = network.at(t).decoder(network.at(t).encoder(x))
    torch.testing.assert_close(folded, network(x, torch.full((2,), t)), atol=1e-5, rtol=1e-5)
    unfolded = network.decoder(network.at(t).encoder(x))
    assert (folded - unfolded).abs().max() > 1e-2, "the decoder has modulations of its own"


def test_folding_leaves_the_network_as_it_was():
    network = ResidualUNet(SMALL)
    randomise(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.at(0.5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_conditioning_starts_as_the_identity_and_can_learn():
    network = ResidualUNet(SMALL)
    x = volume(1, 2, 16, 16, 16)
    assert torch.equal(network(x, torch.tensor([0.0])), network(x, torch.tensor([1.0])))
    network(x, torch.tensor([0.5])).square().sum().backward()
    assert network.film.project.weight.grad.abs().max() > 0


def test_modulation_is_film_on_the_output_of_an_instance_norm():
    x = volume(3, 5, 4, 6, 4)
    weight, bias, gamma, beta = volume(5), volume(5) + 1, volume(3, 5) / 2, volume(3, 5)
    out = norm_act(x, weight, bias, Modulation(gamma, beta))
    h = torch.nn.functional.instance_norm(x, weight=weight, bias=bias, eps=1e-5)
    expected = h * (gamma + 1)[:, :, None, None, None] + beta[:, :, None, None, None]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_every_trainable_parameter_gets_a_gradient_and_only_those():
    network = ResidualUNet(SMALL)
    randomise(network)
    network(volume(1, 2, 16, 16, 16), torch.tensor([0.5])).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 16, 40)])
def test_any_size_that_the_strides_allow(shape):
    assert ResidualUNet(SMALL)(volume(1, 2, *shape), torch.zeros(1)).shape == (1, 2, *shape)


def test_other_sizes_are_refused_with_the_size_that_fits():
    network = ResidualUNet(SMALL)
    with pytest.raises(ConfigError, match=r"multiple of 8.*pad it to \(16, 24, 16\)"):
        network(volume(1, 2, 15, 17, 16), torch.zeros(1))
    with pytest.raises(ConfigError, match="cannot be normalised"):
        network(volume(1, 2, 8, 8, 8), torch.zeros(1))


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (ResidualUNet(SMALL, generator=torch_generator(seed, "weights")) for seed in (0, 0, 1))
    assert torch.equal(one.encoder.stem.convs[0].conv.weight, same.encoder.stem.convs[0].conv.weight)
    assert not torch.equal(one.encoder.stem.convs[0].conv.weight, other.encoder.stem.convs[0].conv.weight)


def test_unknown_presets_and_unfit_shapes_are_refused():
    with pytest.raises(ConfigError, match="tiny, small, base, resenc-l"):
        preset("huge")
    with pytest.raises(ConfigError):
        UNetConfig(features=(4, 8), blocks=(1,))
    assert UNetConfig.from_dict(SMALL.to_dict()) == SMALL
