"""A plain Vision Transformer (Dosovitskiy et al., ICLR 2021) in torch alone, as DINOv2 and its descendants use it.

Its parameters are named as in facebookresearch/dinov2, whose checkpoints it loads without a table. A checkpoint does
not say how many heads it has: 64 channels a head, as in every ViT-S, B, L of DINOv2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.errors import ModelError

HEAD_CHANNELS = 64
NORM_EPS = 1e-6
NUDGE = 0.1  # of a patch, by which DINOv2 scales its position embeddings too far; its released features include it
BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class ViTSizes:
    """The sizes of a Vision Transformer.

    Attributes:
        width: channels of a token.
        depth: blocks.
        hidden: channels within a block's perceptron.
        patch: pixels a side of what becomes a token.
        grid: tokens a side of the images that the position embedding was trained on.
        registers: tokens besides the class token that belong to no patch.
        layer_scale: whether the branches of a block are scaled by channel.
    """

    width: int
    depth: int
    hidden: int
    patch: int
    grid: int
    registers: int = 0
    layer_scale: bool = True

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], where: str | Path) -> ViTSizes:
        """What the shapes of weights tell; raises `ModelError` for weights of another kind."""
        try:
            positions, projection = weights["pos_embed"], weights["patch_embed.proj.weight"]
            hidden = len(weights["blocks.0.mlp.fc1.weight"])
            (_, tokens, width), (_, _, patch, _) = positions.shape, projection.shape
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"not a plain Vision Transformer of DINOv2's layout ({error})",
                where=where,
                mend="give its released weights",
            ) from error
        blocks = [int(found[1]) for name in weights if (found := BLOCK.match(name))]
        grid = round((tokens - 1) ** 0.5)
        if grid**2 != tokens - 1 or width % HEAD_CHANNELS:
            raise ModelError(
                f"position embeddings of {tokens} tokens of {width} channels are not a square grid and a class token "
                f"of {HEAD_CHANNELS} channels a head",
                where=where,
                mend="give its released weights",
            )
        registers = weights["register_tokens"].shape[1] if "register_tokens" in weights else 0
        return cls(
            width=width,
            depth=max(blocks) + 1,
            hidden=hidden,
            patch=patch,
            grid=grid,
            registers=registers,
            layer_scale="blocks.0.ls1.gamma" in weights,
        )


class PatchEmbed(nn.Module):
    """Each patch of an image to a token."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Float[Tensor, "N colours H W"]) -> Float[Tensor, "N patches width"]:
        out: Tensor = self.proj(images)
        return out.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "N tokens width"]) -> Float[Tensor, "N tokens width"]:
        heads = self.qkv(x).unflatten(2, (3, -1, HEAD_CHANNELS))  # (N, tokens, 3, heads, channels)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then a perceptron, each on normalised tokens and added to them."""

    def __init__(self, sizes: ViTSizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width)
        self.ls1 = LayerScale(width) if sizes.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, sizes.hidden)
        self.ls2 = LayerScale(width) if sizes.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Images to their class tokens, normalised.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: ViTSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        if sizes.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, sizes.registers, sizes.width))
        self.patch_embed = PatchEmbed(sizes.width, sizes.patch)
        self.blocks = nn.ModuleList([Block(sizes) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(sizes.width, eps=NORM_EPS)

    def forward(self, images: Float[Tensor, "N colours H W"]) -> Float[Tensor, "N width"]:
        """The class tokens (N, width) of images whose sides are multiples of the patch."""
        return self.tokens(images)[:, 0]

    def tokens(self, images: Float[Tensor, "N colours H W"]) -> Float[Tensor, "N tokens width"]:
        """All tokens after the last normalisation: class, registers, patches row by row."""
        rows, columns = (side // self.sizes.patch for side in images.shape[2:])
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        if self.sizes.registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 tokens width"]:
        """The position embedding on a grid of patches, bicubic in the one it was trained on, which is left as it is.

        The networks without registers scale by slightly more than the grids' ratio, those with registers exactly and
        smoothed: so they were evaluated by their authors.
        """
        grid = self.sizes.grid
        if (rows, columns) == (grid, grid):
            return self.pos_embed
        image = self.pos_embed[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        if self.sizes.registers:
            image = F.interpolate(image, size=(rows, columns), mode="bicubic", antialias=True)
        else:
            scale = ((rows + NUDGE) / grid, (columns + NUDGE) / grid)
            image = F.interpolate(image, scale_factor=scale, mode="bicubic")
        patches = image.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def groups(self) -> list[nn.Module]:
        """Its parts from input to output: what makes tokens, each block, the last normalisation."""
        free = [self.cls_token, self.pos_embed, *([self.register_tokens] if self.sizes.registers else [])]
        return [nn.ModuleList([self.patch_embed, nn.ParameterList(free)]), *self.blocks, self.norm]
