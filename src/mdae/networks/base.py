"""What the rest of the package knows of a network. A new one is one file, and nothing else in the package names it.

That file needs:

1. **A configuration**, derived from `NetworkConfig`: a frozen, keyword-only dataclass of numbers, words, truth values
   and tuples of them, with `stride`. It is written into `config.json` beside the network's kind, and checks itself.
2. **A class**, derived from `Network` and built by `(config, generator=...)`, that sets

   - `config`; `strides`, voxels along each side that one voxel of each stage stands for, finest first;
   - `encoder`, a `StageEncoder` (a plain transformer has one stage), which is called by itself where time is left out.
     Its `state_dict` is what other libraries get, so it holds nothing of time;
   - `decoder` and `map_widths`, from stages to maps, coarsest first, the last of which `head` reads;
   - `head`, the last layer, to (B, C, D, H, W) at the input's resolution,

   and has `stages(x, t)`, `maps(stages, t)` and `new_head(channels)`. `decode` and `restore` follow from them; where
   the conditioning can be computed once for both, `restore` is overridden.
3. **Time**, if it is to know any: a t of None leaves it out; `freeze_time` makes the conditioning the identity and
   freezes it; `fold_time` takes a fixed time into the other weights, exactly, and removes the conditioning, whereupon t
   is taken no notice of. Untrained conditioning is the identity. A network without time takes no notice of t at all.
4. **A call of `register` a preset**, with the patch that it is meant for. Presets of one class share a kind.

All random weights are drawn from the generator, on the CPU. No sample of a batch sees another. Weights that are never
trained are frozen in the constructor. The encoder's `groups` and `decoder_groups` hold each weight once, in the order
from input to output; by default each is one group.

May be added: `recompute`, activations computed again in the backward pass; `largest_map`, for the guess of memory;
`sparse_stages` (`SparseNetwork`), stages from visible voxels alone, without which SparK refuses the network.

`StageEncoder` is also what other people's encoders are here (`mdae.interop.third_party`), which restore nothing and
know no time: features, fine-tuning and export ask it alone.

tests/contract checks all of this of each preset and each third-party encoder, and docs/networks.md has a network in a
file of one's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, Self, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mdae.errors import ConfigError
from mdae.tensors import Batch, PerSample
from mdae.types import Shape3


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The sizes of a network; each kind adds its own.

    Args:
        in_channels: contrasts stacked into one volume.
    """

    in_channels: int = 1

    @property
    def stride(self) -> int:
        """Every side of an input must be a multiple of this."""
        raise NotImplementedError

    def check_shape(self, shape: Shape3) -> None:
        """Raise `ConfigError` for a volume that the network does not take."""
        if any(side % self.stride for side in shape):
            fits = tuple(math.ceil(side / self.stride) * self.stride for side in shape)
            raise ConfigError(
                f"a volume of {shape} voxels: each side must be a multiple of {self.stride}",
                mend=f"pad it to {fits}",
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown or missing keys raise `TypeError`."""
        return cls(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value


class StageEncoder(nn.Module):
    """Volumes (B, C, D, H, W) to the list of its stages, finest first, (B, widths[i], ...) each; without time.

    A subclass sets the attributes and has `forward(x)`. What it gives of a sample depends on that sample alone.

    Attributes:
        in_channels: C, contrasts of a volume.
        widths: channels of each stage, finest first.
        first_conv: the name within it of its first convolution, whose input channels are the volume's (a 2D network
            may take each contrast as several equal colours).
    """

    in_channels: int
    widths: tuple[int, ...]
    first_conv: str

    @property
    def num_features(self) -> int:
        """F of `features`."""
        return sum(self.widths)

    def features(self, x: Batch) -> Float[Tensor, "B F"]:
        """The means over the voxels of every stage side by side, finest first, float32."""
        return torch.cat([stage.float().mean(dim=(2, 3, 4)) for stage in self(x)], dim=1)

    def groups(self) -> list[nn.Module]:
        """Its parts from input to output, for layer-wise learning rates; together they hold each weight once."""
        return [self]

    @torch.no_grad()
    def widen(self, times: int) -> None:
        """Take so many times as many contrasts: the first convolution's weights, repeated and divided by that number.

        The widened encoder, given the same volume as every contrast, computes what it computed of that volume.
        """
        parent_name, _, name = self.first_conv.rpartition(".")
        parent = self.get_submodule(parent_name)
        setattr(parent, name, _widened(cast("nn.Conv2d | nn.Conv3d", getattr(parent, name)), times))
        self.in_channels *= times


def _widened(old: nn.Conv2d | nn.Conv3d, times: int) -> nn.Conv2d | nn.Conv3d:
    wide = type(old)(
        old.in_channels * times,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # what a convolution has, it takes
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    wide.weight.copy_(old.weight.repeat(1, times, *[1] * (old.weight.dim() - 2)) / times)
    wide.weight.requires_grad_(old.weight.requires_grad)
    if old.bias is not None and wide.bias is not None:
        wide.bias.copy_(old.bias).requires_grad_(old.bias.requires_grad)
    return wide


class Network(nn.Module):
    """An encoder and a decoder, conditioned on time or not; the module's docstring tells what a subclass has.

    Attributes:
        config: what it was built of.
        strides: voxels of the input along each side that one voxel of each stage stands for.
        map_widths: channels of each of the decoder's maps, coarsest first.
        encoder: volumes to stages, without time.
        decoder: the module whose weights are the decoder's.
        head: the last map to the volume.
    """

    config: NetworkConfig
    strides: tuple[int, ...]
    map_widths: tuple[int, ...]
    encoder: StageEncoder
    decoder: nn.Module
    head: nn.Module

    def stages(self, x: Batch, t: PerSample | None = None) -> list[Tensor]:
        """The output of every stage, finest first, (B, widths[i], ...) each.

        Args:
            x: (B, C, D, H, W), of sides that `config.check_shape` allows, else `ConfigError`.
            t: times in [0, 1], 0 is clean; None leaves time out.
        """
        raise NotImplementedError

    def maps(self, stages: Sequence[Tensor], t: PerSample | None = None) -> list[Tensor]:
        """The decoder's maps of all stages, coarsest first; the last is what `head` reads."""
        raise NotImplementedError

    def new_head(self, channels: int) -> nn.Module:
        """A layer in the place of `head` that predicts so many channels."""
        raise NotImplementedError

    def decode(
        self, stages: Sequence[Tensor], t: PerSample | None = None, head: nn.Module | None = None
    ) -> Batch:
        """The volume (B, C, D, H, W) from all stages; with a head of one's own that one's channels."""
        volume: Tensor = (self.head if head is None else head)(self.maps(stages, t)[-1])
        return volume

    def restore(self, x: Batch, t: PerSample | None = None, head: nn.Module | None = None) -> Batch:
        """Predict the clean volume from a corrupted one, (B, C, D, H, W) both; arguments as above."""
        return self.decode(self.stages(x, t), t, head)

    def forward(self, x: Batch, t: PerSample | None = None) -> Batch:
        """`restore`."""
        return self.restore(x, t)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, finest first."""
        return self.encoder.widths

    @property
    def in_channels(self) -> int:
        """Contrasts of a volume."""
        return self.config.in_channels

    @property
    def stride(self) -> int:
        """Every side of an input must be a multiple of this."""
        return self.config.stride

    def decoder_groups(self) -> list[nn.Module]:
        """The decoder's parts from input to output, without the head, for layer-wise learning rates."""
        return [self.decoder]

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The weights of "encoder" (by their names within it), "decoder", "head" and "time" (by their own names)."""
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("encoder", "decoder", "head", "time")}
        for name, value in self.state_dict().items():
            part = self.part_of(name)
            parts[part][name.removeprefix("encoder.") if part == "encoder" else name] = value
        return parts

    def part_of(self, name: str) -> str:
        """The part that a weight belongs to: what is neither of encoder, decoder nor head is of time."""
        first = name.partition(".")[0]
        return first if first in ("encoder", "decoder", "head") else "time"

    def freeze_decoder(self) -> None:
        """Train neither decoder nor head."""
        self.decoder.requires_grad_(False)
        self.freeze_head()

    def freeze_head(self) -> None:
        """Do not train the head, for those who bring their own."""
        self.head.requires_grad_(False)

    def drop_head(self) -> None:
        """Let go of the head, for those who read maps alone."""
        self.head = nn.Identity()

    def freeze_time(self) -> None:
        """Make the conditioning the identity and do not train it: the fold at any time is then the network itself."""

    def fold_time(self, t: float) -> None:
        """Take the conditioning at time t into the other weights, and remove it."""

    @torch.no_grad()
    def at(self, t: float = 0.0) -> Self:
        """The fold: a copy in evaluation mode, equal to this one at time t, with no trace of conditioning left."""
        plain = copy.deepcopy(self).eval()
        plain.fold_time(t)
        return plain

    def recompute(self, wanted: bool = True) -> None:
        """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
        if wanted:
            raise ConfigError(
                f"{type(self).__name__} cannot compute activations again", mend="leave --recompute out"
            )

    def largest_map(self, patch: Shape3) -> int:
        """Numbers of the largest tensor that it makes of one volume, to guess memory by before it is counted."""
        sizes = zip(self.widths, self.strides, strict=True)
        return max(width * math.prod(patch) // stride**3 for width, stride in sizes)


class SparseFeatures(NamedTuple):
    """One stage's output, 0 where hidden, and which of its voxels are visible, (B, 1, ...)."""

    features: Tensor
    visible: Tensor


@runtime_checkable
class SparseNetwork(Protocol):
    """A network whose encoder can compute from visible voxels alone."""

    def sparse_stages(self, x: Batch, visible: Tensor, t: PerSample | None = None) -> list[SparseFeatures]:
        """Every stage, finest first, from the voxels that are `visible`, (B, 1, D, H, W) bool, alone."""
