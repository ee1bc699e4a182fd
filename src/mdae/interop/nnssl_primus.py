"""Primus in nnssl's checkpoints, OpenMind's Primus-M among them: their weights by our names, and the other way.

The names are the library's on both sides; what has to be told is what shapes do not tell, the heads and the places.
Axes: nnssl counts z first, so an encoder that is used as its own keeps its order, and one that goes on in training here
is turned (`axes_reversed`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mdae.errors import ConfigError
from mdae.networks.primus import Primus, PrimusConfig, as_volume, grid_of
from mdae.types import Shape3

ENCODER, STEM, PLACES = "eva", "down_projection", "eva.pos_embed"
SIZES = {  # by nnssl's name: width, blocks, heads
    "PrimusS": (396, 12, 6),
    "PrimusB": (792, 12, 12),
    "PrimusM": (864, 16, 12),
    "PrimusL": (1056, 24, 16),
}
BLOCK = re.compile(r"eva\.blocks\.(\d+)\.")
REGISTERS = "register_tokens"
ADDED = ("gamma_1", "gamma_2")  # 1 where nnssl's trainer did without


def primus_config(weights: Mapping[str, Tensor], kind: str, patch: Shape3) -> PrimusConfig:
    """The sizes that shapes and the network's name tell.

    Args:
        weights: of the encoder, under the library's names.
        kind: nnssl's name of the network.
        patch: the input that was recommended, in voxels; the places' own if it has as many tokens, else a cube.

    Raises:
        KeyError: weights of another network.
        ConfigError: sizes that are none.
    """
    stem = weights[f"{STEM}.proj.weight"]
    embed_dim, channels, token = stem.shape[:3]
    heads = SIZES[kind][2] if embed_dim == SIZES[kind][0] else max(1, embed_dim // 72)
    number = weights[PLACES].shape[1]
    shape = patch
    if number * token**3 != patch[0] * patch[1] * patch[2]:
        side = round(number ** (1 / 3)) * token
        shape = (side, side, side)
    if number * token**3 != shape[0] * shape[1] * shape[2]:
        raise ConfigError(f"{number} places of tokens, which are neither those of {patch} nor of a cube")
    depth = 1 + max(int(match[1]) for name in weights if (match := BLOCK.match(name)))
    return PrimusConfig(
        in_channels=channels, embed_dim=embed_dim, depth=depth, heads=heads, token=token, shape=shape
    )


def primus_weights(
    weights: Mapping[str, Tensor], encoder_key: str = ENCODER, stem_key: str = STEM
) -> dict[str, Tensor]:
    """The encoder's weights under the library's names, with a scale of 1 for what blocks add where there is none.

    Raises:
        ConfigError: register tokens, which every other token attends to and which lie beside the encoder.
    """
    if registers := [name for name in weights if name.rpartition(".")[2] == REGISTERS]:
        number = weights[registers[0]].shape[-2]
        raise ConfigError(f"a Primus with {number} register tokens, and only one without can be had here")
    found = {}
    for name, value in weights.items():
        for key, own in ((encoder_key, ENCODER), (stem_key, STEM)):
            if name.startswith(f"{key}."):
                found[own + name[len(key) :]] = value
    blocks = {match[1] for name in found if (match := BLOCK.match(name))}
    for block in blocks:
        width = found[f"eva.blocks.{block}.norm1.weight"].shape
        for name in ADDED:
            found.setdefault(f"eva.blocks.{block}.{name}", torch.ones(width))
    return found


def primus_kind(config: PrimusConfig) -> str:
    """nnssl's name for a network of these sizes; raises `ConfigError` where it has none."""
    sizes = (config.embed_dim, config.depth, config.heads)
    if config.token == 8:
        for name, known in SIZES.items():
            if sizes == known:
                return name
    raise ConfigError(
        f"a Primus of width, blocks and heads {sizes} and tokens of {config.token}, for which nnssl has no name",
        mend="train primus-s or primus-m, or export --format encoder",
    )


def nnssl_weights(network: Primus) -> dict[str, Tensor]:
    """All weights, folded at t = 0, on the CPU, axes z first, under the library's names."""
    weights = axes_reversed(library_weights(network.at(0.0)), network.config)
    return {name: value.detach().cpu() for name, value in weights.items()}


def library_weights(network: Primus) -> dict[str, Tensor]:
    """All weights under the names of dynamic-network-architectures' `Primus`, of a network without time.

    Raises:
        ConfigError: a network that is not folded.
    """
    if network.film is not None:
        raise ConfigError(
            "a Primus with its conditioning has no library's names", mend="fold it: network.at(0)"
        )
    weights = network.encoder.state_dict()
    for index, up in enumerate(network.decoder):
        weights |= {f"up_projection.decode.{index}.{name}": value for name, value in up.state_dict().items()}
    last = f"up_projection.decode.{len(network.decoder)}"
    weights |= {f"{last}.{name}": value for name, value in network.head.state_dict().items()}
    weights["mask_token"] = torch.zeros(1, 1, network.config.embed_dim)
    return weights


def axes_reversed(weights: dict[str, Tensor], config: PrimusConfig) -> dict[str, Tensor]:
    """The weights that say of a volume with axes (z, y, x) what these say of (x, y, z), and the other way round.

    Kernels and places are turned; and the queries' and keys' channels, of which a third each belongs to an axis.
    """
    return {name: _turned(name, value, config) for name, value in weights.items()}


def _turned(name: str, value: Tensor, config: PrimusConfig) -> Tensor:
    if value.dim() == 5:
        return value.transpose(2, 4).contiguous()
    if name.endswith("pos_embed"):
        volume = as_volume(value, grid_of(config.shape, config.token))
        return volume.transpose(2, 4).flatten(2).transpose(1, 2).contiguous()
    if ".attn.q_proj." in name or ".attn.k_proj." in name:
        thirds = value.reshape(config.heads, 3, -1, *value.shape[1:])
        return thirds.flip(1).reshape(value.shape)
    return value
