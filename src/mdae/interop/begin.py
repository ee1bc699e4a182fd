"""A network that begins with weights of elsewhere: what of them was taken, adapted and not taken is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.interop.initial import Initial
from mdae.networks import PRESETS, Network, NetworkConfig

NO_SIZES = ("in_channels", "time_dim")  # of what a preset has, whatever else it is begun with


@dataclass
class Begun:
    """How a network began.

    Attributes:
        initial: with what.
        taken: number of weights by part of the network.
        adapted, left_out: in words.
    """

    initial: Initial
    taken: dict[str, int] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """The same for the same weights, taken likewise."""
        return f"{self.initial.identity[:16]} {'+'.join(self.taken)}"

    def lines(self) -> list[str]:
        """What a user is told."""
        initial = self.initial
        parts = ", ".join(f"{number} weights of the {part}" for part, number in self.taken.items())
        kind = {
            "mdae": "a model of mdae",
            "encoder": "an encoder of mdae",
            "nnssl": "nnssl",
            "nnunet": "nnU-Net",
        }
        about = initial.about.get("objective", "")
        source = f"{kind[initial.kind]}{f', {about}' if about else ''}"
        return [
            f"begins with {initial.where} ({source}): {parts}",
            *(f"  adapted: {text}" for text in self.adapted),
            *(f"  not taken: {text}" for text in self.left_out),
        ]

    def provenance(self) -> dict[str, Any]:
        """For the model that comes of it, JSON-able."""
        initial = self.initial
        return {
            "from": "/".join(
                initial.where.rstrip("/").split("/")[-2:]
            ),  # whose disk it lay on is nobody's business
            "kind": initial.kind,
            "sha256": initial.identity,
            **initial.about,
            "taken": dict(self.taken),
            "adapted": list(self.adapted),
            "not_taken": list(self.left_out),
        }


@torch.no_grad()
def begin_with(
    network: Network,
    initial: Initial,
    contract: Preprocessing,
    *,
    decoder: bool = True,
    name: str = "",
    channels: Sequence[str] = (),
) -> Begun:
    """Put weights of elsewhere into a network.

    The encoder must fit whole. The decoder is taken whole or not at all, and so is the time conditioning; where the
    network makes no use of time (its conditioning is frozen), or conditions on it otherwise, weights are folded at
    time 0.

    Args:
        network: changed in place.
        initial: the weights.
        contract: how the scans are prepared that it will be trained on.
        decoder: whether the decoder is wanted too.
        name: of the network's preset, for messages.
        channels: the contrasts that make a volume, in order, if there are several.

    Raises:
        ConfigError: an encoder of another shape.
    """
    begun = Begun(initial, adapted=list(initial.adapted), left_out=list(initial.left_out))
    conditioned = _time_fits(network, initial, begun)
    folded = not conditioned and bool(initial.folded)
    if folded:
        begun.adapted.append("time conditioning folded at t = 0")
    encoder = dict(initial.folded["encoder"] if folded else initial.encoder)
    order = _order(initial, channels, begun)
    _fit_stem(encoder, f"{network.encoder.first_conv}.weight", network.in_channels, order, begun)
    if fault := _difference(network.encoder.state_dict(), encoder):
        raise ConfigError(
            f"its encoder does not fit {f'--network {name}' if name else 'the network'}: {fault}",
            where=initial.where,
            mend=_fitting(initial.network),
        )
    network.encoder.load_state_dict(encoder)
    begun.taken["encoder"] = len(encoder)
    if conditioned:
        network.load_state_dict(initial.time, strict=False)
        begun.taken["time conditioning"] = len(initial.time)
    if decoder:
        _take_decoder(network, initial, begun, order, folded=folded)
    elif initial.decoder:
        begun.left_out.append("decoder: --no-init-decoder")
    begun.adapted += _prepared_otherwise(initial, contract)
    return begun


def _time_fits(network: Network, initial: Initial, begun: Begun) -> bool:
    """Whether the time conditioning is taken; if not, why."""
    if not initial.time:
        return False
    own = network.parts()["time"]
    if not any(p.requires_grad for name, p in network.named_parameters() if name in own):
        begun.left_out.append("time conditioning: the objective makes no use of time")
        return False
    if fault := _difference(own, initial.time):
        begun.left_out.append(f"time conditioning: {fault}")
        return False
    return True


def _take_decoder(
    network: Network, initial: Initial, begun: Begun, order: list[int], *, folded: bool
) -> None:
    weights = initial.folded["decoder"] if folded else initial.decoder
    if not weights:
        begun.left_out.append("decoder: there is none, so it begins as drawn")
        return
    own = network.parts()
    if fault := _difference(own["decoder"], weights):
        begun.left_out.append(f"decoder: {fault}")
        return
    axes = _channel_axes(network)
    head = {
        name: _spread(value, network.in_channels, axes[name.rpartition(".")[2]], order)
        for name, value in initial.head.items()
        if name in own["head"]
    }
    if head and all(own["head"][name].shape == value.shape for name, value in head.items()):
        weights = weights | head
    elif initial.head:
        begun.left_out.append("the decoder's head: it predicts other channels")
    network.load_state_dict(weights, strict=False)
    begun.taken["decoder"] = len(weights)


def _order(initial: Initial, channels: Sequence[str], begun: Begun) -> list[int]:
    """Which of its channels each of ours is, where both have the same in another order; none to leave them."""
    before = list(initial.channels)
    if not before or before == list(channels):
        return []
    if sorted(before) != sorted(channels):
        begun.adapted.append(
            f"its channels were {' '.join(before)} and are {' '.join(channels) or 'one'} now"
        )
        return []
    begun.adapted.append(f"channels brought from {' '.join(before)} to {' '.join(channels)}")
    return [before.index(name) for name in channels]


def _fit_stem(encoder: dict[str, Tensor], name: str, channels: int, order: list[int], begun: Begun) -> None:
    """A first convolution for other contrasts than its own.

    Of several for one: the sum, which gives what the same volume in each gave. Of one for several: repeated and divided
    by their number, which gives the same of the same volume in each.
    """
    stem = encoder.get(name)
    if stem is None or stem.dim() != 5:
        return
    if stem.shape[1] == channels:
        encoder[name] = stem[:, order] if order else stem
    elif channels == 1:
        encoder[name] = stem.sum(1, keepdim=True)
        begun.adapted.append(f"first convolution of {stem.shape[1]} channels summed to one")
    elif stem.shape[1] == 1:
        encoder[name] = stem.repeat(1, channels, 1, 1, 1) / channels
        begun.adapted.append(
            f"first convolution repeated for {channels} channels and divided by their number"
        )


def _channel_axes(network: Network) -> dict[str, int]:
    """Which axis of each of a head's weights counts the channels, by the weight's last name."""
    here, more = (network.new_head(network.in_channels + extra).state_dict() for extra in (0, 1))
    return {
        name: next(axis for axis in range(value.dim()) if value.shape[axis] != more[name].shape[axis])
        for name, value in here.items()
    }


def _spread(value: Tensor, channels: int, axis: int, order: list[int]) -> Tensor:
    """A head's weight for our channels: of one, the same for each; of the same ones, in our order."""
    if value.shape[axis] == 1 < channels:
        return value.repeat_interleave(channels, dim=axis)
    return value.index_select(axis, torch.tensor(order)) if order else value


def _difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What does not fit of weights, in words; "" if all do."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    unfit = sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape)
    faults = [f"{len(missing)} weights missing, e.g. {missing[0]}"] if missing else []
    faults += [f"{len(extra)} left over, e.g. {extra[0]}"] if extra else []
    if unfit:
        found, wanted = tuple(given[unfit[0]].shape), tuple(own[unfit[0]].shape)
        faults.append(f"{len(unfit)} of another shape, e.g. {unfit[0]} is {found} instead of {wanted}")
    return "; ".join(faults)


def _fitting(config: NetworkConfig) -> str:
    """The preset of that shape, if there is one."""
    fits = [name for name, own in PRESETS.items() if _sizes(own.config) == _sizes(config)]
    if fits:
        return f"use --network {fits[0]}"
    sizes = "; ".join(f"{name} {'/'.join(map(str, own))}" for name, own in _sizes(config).items())
    return f"it has {sizes}, as no preset has, or strides other than 2"


def _sizes(config: NetworkConfig) -> dict[str, tuple[Any, ...]]:
    """What tells one shape of an encoder from another."""
    sizes = {name: value for name, value in config.to_dict().items() if name not in NO_SIZES}
    return {name: value if isinstance(value, tuple) else (value,) for name, value in sizes.items()}


def _prepared_otherwise(initial: Initial, contract: Preprocessing) -> list[str]:
    """What was different in how its scans were prepared, as far as it is known."""
    before, now = initial.about.get("preprocessing", {}), contract.to_dict()
    told = [
        f"{name} was {before[name]} and is {now[name]}"
        for name in sorted(before.keys() & now.keys())
        if _plain(before[name]) != _plain(now[name])
    ]
    return [f"scans are prepared otherwise now: {', '.join(told)}"] if told else []


def _plain(value: Any) -> Any:
    return (
        [float(item) if isinstance(item, int | float) else item for item in value]
        if isinstance(value, list | tuple)
        else value
    )
