"""The Vision Transformer against slow readings of it: attention, block, position embedding, the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from mdae.errors import ModelError
from mdae.interop.vit import Attention, Block, VisionTransformer, ViTSizes
from tests.interop.small import drawn, vit_layout

WIDTH = 128  # two heads
HEAD = 64


def opened(seed: int = 0, **sizes: object) -> tuple[VisionTransformer, dict[str, torch.Tensor]]:
    weights = drawn(vit_layout(**sizes), seed)
    del weights["mask_token"]
    network = VisionTransformer(ViTSizes.of(weights, "file"))
    network.load_state_dict(weights)
    return network.eval(), weights


def numpy_of(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in weights.items()}


def normalised(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def attended(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Self-attention of tokens (tokens, width), head by head and token by token."""
    out = np.zeros_like(x)
    joined = x @ w[f"{name}.qkv.weight"].T + w[f"{name}.qkv.bias"]
    query, key, value = np.split(joined, 3, axis=1)
    for first in range(0, x.shape[1], HEAD):
        part = slice(first, first + HEAD)
        for token in range(len(x)):
            scores = np.exp(key[:, part] @ query[token, part] / HEAD**0.5)
            out[token, part] = scores @ value[:, part] / scores.sum()
    return out @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def blocked(x: np.ndarray, w: dict[str, np.ndarray], name: str, *, scaled: bool = True) -> np.ndarray:
    first, second = (w[f"{name}.ls{n}.gamma"] if scaled else 1.0 for n in (1, 2))
    y = normalised(x, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"])
    x = x + first * attended(y, w, f"{name}.attn")
    y = normalised(x, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])
    y = y @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
    y = y * 0.5 * (1 + erf(y / 2**0.5))
    return x + second * (y @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"])


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def nudged(old: int, new: int) -> np.ndarray:
    """Bicubic (new, old) as the networks without registers have it: 0.1 patches too wide, the ends repeated."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / (new + 0.1) - 0.5
        for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[row, np.clip(place, 0, old - 1)] += cubic(np.array(place - centre), -0.75)
    return matrix


def smoothed(old: int, new: int) -> np.ndarray:
    """Bicubic (new, old) as those with registers have it: the kernel as wide as a new patch, cut at the ends."""
    wide = max(1.0, old / new)
    centres = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    matrix = cubic((np.arange(old) - centres) / wide, -0.5)
    return matrix / matrix.sum(1, keepdims=True)


def test_attention_is_softmax_of_products_head_by_head():
    weights = {k.removeprefix("blocks.0."): v for k, v in drawn(vit_layout(width=WIDTH)).items()}
    attention = Attention(WIDTH)
    attention.load_state_dict(
        {k.removeprefix("attn."): v for k, v in weights.items() if k.startswith("attn.")}
    )
    x = torch.randn(1, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    want = attended(x[0].double().numpy(), numpy_of(weights), "attn")
    np.testing.assert_allclose(attention(x)[0].detach().numpy(), want, atol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_block_is_what_a_slow_reading_of_it_gives(scaled):
    network, weights = opened(width=WIDTH, scaled=scaled)
    assert isinstance(network.blocks[1], Block)
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    for sample, got in zip(x, network.blocks[1](x), strict=True):
        want = blocked(sample.double().numpy(), numpy_of(weights), "blocks.1", scaled=scaled)
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-4)


@pytest.mark.parametrize(("registers", "resize"), [(0, nudged), (3, smoothed)])
def test_all_tokens_are_what_a_slow_reading_gives_on_a_grid_that_is_not_the_trained_one(registers, resize):
    network, weights = opened(registers=registers, patch=4, grid=5)
    w = numpy_of(weights)
    image = torch.randn(1, 3, 12, 28, generator=torch.Generator().manual_seed(2))
    rows, columns, pixels = 3, 7, image[0].double().numpy()
    tokens = [
        np.tensordot(w["patch_embed.proj.weight"], pixels[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4], 3)
        + w["patch_embed.proj.bias"]
        for r in range(rows)
        for c in range(columns)
    ]
    grid = w["pos_embed"][0, 1:].reshape(5, 5, -1)
    positions = np.einsum("ra,cb,abw->rcw", resize(5, rows), resize(5, columns), grid).reshape(
        rows * columns, -1
    )
    extra = [w["register_tokens"][0]] if registers else []
    x = np.concatenate([w["cls_token"][0] + w["pos_embed"][0, :1], *extra, np.array(tokens) + positions])
    for number in range(2):
        x = blocked(x, w, f"blocks.{number}")
    want = normalised(x, w["norm.weight"], w["norm.bias"])
    got = network.tokens(image)[0].detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(network(image)[0].detach().numpy(), got[0])


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_are_left_alone_on_the_trained_grid(registers):
    network, weights = opened(registers=registers)
    assert torch.equal(network.positions(5, 5), weights["pos_embed"])
    assert not torch.equal(network.positions(4, 5)[:, 1:5], weights["pos_embed"][:, 1:5])


def test_every_position_learns_where_the_grid_is_another():
    network, _ = opened()
    network.positions(4, 4).square().sum().backward()
    assert (network.pos_embed.grad.abs().sum(-1) > 0).all()


def test_sizes_are_read_off_the_shapes():
    weights = drawn(vit_layout(width=WIDTH, depth=11, patch=16, grid=3, registers=4, scaled=False))
    sizes = ViTSizes.of(weights, "file")
    assert sizes == ViTSizes(
        width=WIDTH, depth=11, hidden=4 * WIDTH, patch=16, grid=3, registers=4, layer_scale=False
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pos_embed": None}, "pos_embed"),
        ({"pos_embed": torch.zeros(1, 27, 64)}, "not a square grid"),
        ({"pos_embed": torch.zeros(1, 26, 60)}, "64 channels a head"),
        ({"pos_embed": torch.zeros(1, 5, 5, 64)}, "DINOv2's layout"),  # SAM's
    ],
)
def test_another_layout_is_one_line(change, complaint):
    weights = {name: value for name, value in {**drawn(vit_layout()), **change}.items() if value is not None}
    with pytest.raises(ModelError, match=complaint) as caught:
        ViTSizes.of(weights, "file")
    assert "\n" not in str(caught.value) and caught.value.mend


@pytest.mark.parametrize("registers", [0, 4])
def test_groups_run_from_tokens_to_the_last_normalisation_and_hold_each_parameter_once(registers):
    network, _ = opened(registers=registers)
    held = [id(weight) for group in network.groups() for weight in group.parameters()]
    assert sorted(held) == sorted(id(weight) for weight in network.parameters())
    assert network.groups()[1:] == [*network.blocks, network.norm]
