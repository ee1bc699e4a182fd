"""What every encoder must do, ours or others': functions of what makes one and of a volume that it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mdae.networks import StageEncoder

Make = Callable[[], StageEncoder]  # the same weights at each call, in evaluation mode


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


# -- what is checked ----------------------------------------------------------------------------------------------


@torch.no_grad()
def check_stages_and_features_are_what_it_says(make: Make, x: Tensor) -> None:
    encoder = make()
    assert not encoder.training and x.shape[1] == encoder.in_channels
    stages, features = encoder(x), encoder.features(x)
    assert [stage.shape[:2] for stage in stages] == [(len(x), width) for width in encoder.widths]
    assert features.shape == (len(x), encoder.num_features) and features.dtype == torch.float32
    close(features, torch.cat([stage.flatten(2).mean(dim=2) for stage in stages], dim=1))
    assert features.isfinite().all() and features.std() > 0
    assert torch.equal(make().features(x), features)


@torch.no_grad()
def check_samples_do_not_see_each_other(make: Make, x: Tensor) -> None:
    encoder = make()
    close(encoder.features(x), torch.cat([encoder.features(own) for own in x.split(1)]))


def check_groups_hold_each_weight_once(make: Make, x: Tensor) -> None:
    encoder = make()
    first = encoder.get_submodule(encoder.first_conv)
    assert isinstance(first, nn.Conv2d | nn.Conv3d) and not first.in_channels % encoder.in_channels
    assert any(module is first for module in encoder.groups()[0].modules())
    held = Counter(id(weight) for group in encoder.groups() for weight in group.parameters())
    assert held == Counter(id(weight) for weight in encoder.parameters())


def check_it_widens(make: Make, x: Tensor) -> None:
    """The same volume as every contrast gives what it gave alone, and the groups hold the new convolution."""
    encoder = make()
    with torch.no_grad():
        before = encoder.features(x)
        encoder.widen(3)
        close(encoder.features(x.repeat(1, 3, 1, 1, 1)), before)
    assert encoder.in_channels == 3 * x.shape[1]
    check_groups_hold_each_weight_once(lambda: encoder, x)


def check_each_weight_learns(make: Make, x: Tensor) -> None:
    """What has a gradient is what is not frozen."""
    encoder = make()
    (encoder.features(x) ** 3).sum().backward()
    for name, weight in encoder.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
        assert weight.grad is None or weight.grad.isfinite().all(), name


QUICK: Sequence[Callable[[Make, Tensor], None]] = (
    check_stages_and_features_are_what_it_says,
    check_samples_do_not_see_each_other,
    check_groups_hold_each_weight_once,
    check_it_widens,
    check_each_weight_learns,
)
