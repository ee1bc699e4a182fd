"""What every network must do: functions of its spec, which any test may call on a network of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.encoder import Encoder
from mdae.networks import Network, NetworkSpec
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.seeding import torch_generator

T = torch.tensor([0.2, 0.9])


def built(spec: NetworkSpec, in_channels: int = 1, seed: int = 0) -> Network:
    """Every trainable weight moved away from its start, where conditioning is the identity."""
    network = spec.new(torch_generator(seed, "weights"), in_channels=in_channels).eval()
    with torch.no_grad():
        for index, parameter in enumerate(p for p in network.parameters() if p.requires_grad):
            jitter = torch.randn(parameter.shape, generator=torch_generator(seed, "jitter", index))
            parameter.add_(0.1 * jitter)
    return network


def volumes(network: Network, batch: int = 2, sides: tuple[int, int, int] = (2, 3, 4)) -> Tensor:
    """Noise, (B, C, D, H, W), its sides in strides."""
    shape = (batch, network.in_channels, *(side * network.stride for side in sides))
    return torch.randn(shape, generator=torch_generator(0, "volumes"))


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def gradients(network: Network, output: Tensor) -> dict[str, Tensor]:
    """Of every weight that has one; what has gradients is what is trained, no more and no less."""
    network.zero_grad(set_to_none=True)
    output.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in found.values())
    return found


def close(one: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor]) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# -- what is checked ----------------------------------------------------------------------------------------------


def check_stages_and_maps_are_what_it_says(spec: NetworkSpec) -> None:
    for in_channels, sides in ((1, (2, 2, 2)), (3, (2, 3, 4))):
        network = built(spec, in_channels)
        x = volumes(network, sides=sides)
        stages = network.stages(x, T)
        assert network.strides == tuple(sorted(network.strides)) and network.stride % network.strides[-1] == 0
        for stage, width, stride in zip(stages, network.widths, network.strides, strict=True):
            assert stage.shape == (2, width, *(side // stride for side in x.shape[2:]))
        maps = network.maps(stages, T)
        assert [own.shape[1] for own in maps] == list(network.map_widths)
        assert network.decode(stages, T).shape == network.restore(x, T).shape == x.shape
        assert network.decode(stages, T, network.new_head(5)).shape == (2, 5, *x.shape[2:])


def check_restore_is_decoded_stages(spec: NetworkSpec) -> None:
    network = built(spec)
    x = volumes(network)
    for t in (None, T):
        close(network.restore(x, t), network.decode(network.stages(x, t), t))
        assert torch.equal(network(x, t), network.restore(x, t))
    close(network.stages(x), network.encoder(x))


def check_samples_do_not_see_each_other(spec: NetworkSpec) -> None:
    network = built(spec)
    x = volumes(network)
    alone = torch.cat([network(x[i : i + 1], T[i : i + 1]) for i in range(2)])
    close(network(x, T), alone)


def check_untrained_conditioning_is_the_identity(spec: NetworkSpec) -> None:
    network = spec.new(torch_generator(0, "weights")).eval()
    x = volumes(network)
    assert torch.equal(network(x, T), network(x, 1 - T))
    close(network(x, T), network(x, None))


def check_the_fold_equals_the_conditioned_network(spec: NetworkSpec) -> None:
    """At any time, all of it; nothing of time is left, and the network stays as it was."""
    network = built(spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = volumes(network)
    for t in (0.0, 0.7):
        plain, times = network.at(t), torch.full((2,), t)
        close(plain.encoder(x), network.stages(x, times))
        close(plain(x), network(x, times))
        assert torch.equal(plain(x, T), plain(x)), "a folded network takes no notice of time"
        assert not plain.parts()["time"] and not plain.training
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def check_frozen_time_is_left_out(spec: NetworkSpec) -> None:
    network = built(spec)
    network.freeze_time()
    x = volumes(network)
    assert torch.equal(network(x, T), network(x, 1 - T))
    for one, other in zip(network.at(0.3).encoder(x), network.encoder(x), strict=True):
        assert torch.equal(one, other)
    time = network.parts()["time"]
    assert not time.keys() & trainable(network)


def check_what_is_trained_has_a_gradient(spec: NetworkSpec) -> None:
    """Of the whole network; without decoder and time from the stages alone; without the head by one's own."""
    network = built(spec)
    x = volumes(network)
    assert gradients(network, network(x, T).square().mean()).keys() == trainable(network)
    head = network.new_head(3)
    network.freeze_head()
    assert gradients(network, network.restore(x, T, head).square().mean()).keys() == trainable(network)
    network.freeze_decoder()
    network.freeze_time()
    loss = sum((stage.float() ** 3).mean() for stage in network.stages(x))
    found = gradients(network, loss)
    assert found.keys() == trainable(network) and all(name.startswith("encoder.") for name in found)
    silent = [name for name, gradient in found.items() if not gradient.any()]
    assert not silent


def check_decoder_groups_hold_each_weight_once(spec: NetworkSpec) -> None:
    network = built(spec)
    head = {id(p) for p in network.head.parameters()}
    found = [id(p) for group in network.decoder_groups() for p in group.parameters()]
    own = {name for name, p in network.named_parameters() if id(p) in found}
    assert len(found) == len(set(found)) and not head & set(found)
    assert own == {name for name in network.parts()["decoder"] if name in dict(network.named_parameters())}


def check_weights_follow_from_the_generator(spec: NetworkSpec) -> None:
    state = torch.get_rng_state()
    one, same, other = (spec.new(torch_generator(seed, "weights")).state_dict() for seed in (0, 0, 1))
    torch.set_rng_state(state)
    torch.manual_seed(7)  # must not matter
    again = spec.new(torch_generator(0, "weights")).state_dict()
    torch.set_rng_state(state)
    assert all(
        torch.equal(value, same[name]) and torch.equal(value, again[name]) for name, value in one.items()
    )
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def check_other_shapes_are_refused_in_one_line(spec: NetworkSpec) -> None:
    network, stride = built(spec), spec.config.stride
    assert spec.crop(None) == spec.patch
    if stride > 1:
        with pytest.raises(ConfigError, match=f"multiple of {stride}") as caught:
            network(torch.zeros(1, 1, 2 * stride, 2 * stride + 1, 2 * stride), None)
        assert "\n" not in str(caught.value)


def check_bf16_is_close(spec: NetworkSpec) -> None:
    network = built(spec)
    x = volumes(network)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x, T)
    error = (rough.float() - network(x, T)).square().mean() / network(x, T).square().mean()
    assert rough.isfinite().all() and error < 0.02


def check_it_is_saved_and_embeds(spec: NetworkSpec, folder: Path) -> None:
    """Bit for bit, by its kind alone, and its folded encoder embeds a prepared volume."""
    network = built(spec)
    patch = (2 * spec.config.stride,) * 3
    save_model(folder, SavedModel(network, Preprocessing(), patch))
    loaded = load_model(folder)
    assert type(loaded.network) is type(network) and loaded.network.config == network.config
    x = volumes(network)
    assert torch.equal(loaded.network(x, T), network(x, T))
    features = Encoder(loaded).embed_volume(x[0, 0].numpy(), -1.5)
    assert features.shape == (sum(network.widths),) and features.any()


QUICK: Sequence[Callable[[NetworkSpec], None]] = (
    check_stages_and_maps_are_what_it_says,
    check_restore_is_decoded_stages,
    check_samples_do_not_see_each_other,
    check_untrained_conditioning_is_the_identity,
    check_the_fold_equals_the_conditioned_network,
    check_frozen_time_is_left_out,
    check_what_is_trained_has_a_gradient,
    check_decoder_groups_hold_each_weight_once,
    check_weights_follow_from_the_generator,
    check_other_shapes_are_refused_in_one_line,
    check_bf16_is_close,
)
