"""The layers of a plain vision transformer: attention at rotated places, a gated layer, and the block of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdae.networks.norm import Modulation
from mdae.types import Shape3

Tokens = Float[Tensor, "B N C"]

MLP_RATIO = 4 * 2 / 3  # of the gated layer's width to the token's
TEMPERATURE = 10_000.0  # of the rotary frequencies
SCALE_START = 0.1  # of what each block adds


class Attention(nn.Module):
    """Softmax attention of all tokens to all, at rotated places; what the heads say is normalised, then mixed."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tokens, places: Tensor, attended: Tensor | None) -> Tokens:
        q, k, v = (
            project(x).reshape(len(x), -1, self.heads, x.shape[2] // self.heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, places).to(v.dtype), rotated(k, places).to(v.dtype)
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=attended)
        mixed: Tensor = self.proj(self.norm(heard.transpose(1, 2).flatten(2)))
        return mixed


class GatedLayer(nn.Module):
    """SwiGLU with a normalisation inside: W2 norm(silu(Wg x) * Wx x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(dim, hidden)
        self.fc1_x = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tokens) -> Tokens:
        out: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return out


class Block(nn.Module):
    """Attention and a gated layer, each behind a normalisation that time modulates, each added by a learnt scale.

    Attributes:
        recompute: whether activations are computed again in the backward pass instead of being kept.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.recompute = False
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.gamma_1 = nn.Parameter(torch.full((dim,), SCALE_START))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = GatedLayer(dim, int(dim * MLP_RATIO))
        self.gamma_2 = nn.Parameter(torch.full((dim,), SCALE_START))

    def forward(
        self, x: Tokens, places: Tensor, films: Sequence[Modulation | None], attended: Tensor | None
    ) -> Tokens:
        if self.recompute:
            out: Tensor = checkpoint(
                self._forward, x, places, films, attended, use_reentrant=False, preserve_rng_state=False
            )
            return out
        return self._forward(x, places, films, attended)

    def _forward(
        self, x: Tokens, places: Tensor, films: Sequence[Modulation | None], attended: Tensor | None
    ) -> Tokens:
        x = x + self.gamma_1 * self.attn(modulated(self.norm1(x), films[0]), places, attended)
        told: Tensor = self.mlp(modulated(self.norm2(x), films[1]))
        return x + self.gamma_2 * told


def modulated(x: Tokens, film: Modulation | None) -> Tokens:
    """Scale and shift of every token by time (6)."""
    return x if film is None else torch.addcmul(film.beta[:, None], x, film.gamma[:, None] + 1).to(x.dtype)


def angles(grid: Shape3, head: int, device: torch.device) -> Float[Tensor, "N F"]:
    """The angle by which each pair of a head's channels is turned at each token, (N, head / 2).

    A third of the pairs belongs to each axis, at geometric frequencies; a place is the token's number along the axis,
    so that what two tokens say to each other depends on how far apart they are.
    """
    bands = head // 6
    frequencies = TEMPERATURE ** -(torch.arange(bands, device=device, dtype=torch.float32) / bands)
    axes = (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    return (places[:, :, None] * frequencies).flatten(1)


def rotated(x: Float[Tensor, "B heads N C"], turned: Float[Tensor, "... N F"]) -> Tensor:
    """Rotary embedding (Su et al. 2021): neighbouring channels, a point in the plane, turned by an angle; float32."""
    cos, sin = turned.cos(), turned.sin()
    one, two = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([one * cos - two * sin, two * cos + one * sin], dim=-1).flatten(-2)
