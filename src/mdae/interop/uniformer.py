"""A 3D UniFormer (Li et al., ICLR 2022) in torch alone: two stages of convolutions, two of attention over all voxels.

Its parameters are named as in the UniFormer of BrainMVP. Heads have 64 channels, as in every released one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.errors import ModelError
from mdae.interop.vit import HEAD_CHANNELS, NORM_EPS, Attention, Mlp
from mdae.networks import StageEncoder

STAGES = (1, 2, 3, 4)
BLOCK = re.compile(r"blocks([1-4])\.(\d+)\.")


@dataclass(frozen=True)
class UniFormerSizes:
    """The sizes of a UniFormer, one number a stage.

    Attributes:
        widths: channels.
        depths: blocks.
        hidden: channels within a block's perceptron.
        patches: voxels a side that become one.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    hidden: tuple[int, ...]
    patches: tuple[int, ...]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], where: str | Path) -> UniFormerSizes:
        """What the shapes of weights tell; raises `ModelError` for weights of another kind."""
        depths = dict.fromkeys(STAGES, 0)
        for name in weights:
            if found := BLOCK.match(name):
                stage, block = int(found[1]), int(found[2])
                depths[stage] = max(depths[stage], block + 1)
        try:
            shapes = [weights[f"patch_embed{stage}.proj.weight"].shape for stage in STAGES]
            hidden = tuple(len(weights[f"blocks{stage}.0.mlp.fc1.weight"]) for stage in STAGES)
        except KeyError as error:
            raise ModelError(
                f"not a UniFormer of four stages: no {error}", where=where, mend="give its released weights"
            ) from error
        if shapes[0][1] != 1 or any(width % HEAD_CHANNELS for width, *_ in shapes[2:]):
            raise ModelError(
                f"a UniFormer of {shapes[0][1]} contrasts, {shapes[2][0]} and {shapes[3][0]} channels",
                where=where,
                mend=f"give one of one contrast and {HEAD_CHANNELS} channels a head",
            )
        return cls(
            widths=tuple(shape[0] for shape in shapes),
            depths=tuple(depths.values()),
            hidden=hidden,
            patches=tuple(shape[2] for shape in shapes),
        )


class PatchEmbed3d(nn.Module):
    """Each patch of voxels to one, normalised over its channels."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B width d h w"]:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


class ConvMlp(nn.Module):
    """A perceptron at each voxel."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(width, hidden, 1)
        self.fc2 = nn.Conv3d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class ConvBlock(nn.Module):
    """Position by a convolution, a wide convolution a channel in place of attention, and a perceptron."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv1 = nn.Conv3d(width, width, 1)
        self.conv2 = nn.Conv3d(width, width, 1)
        self.attn = nn.Conv3d(width, width, 5, padding=2, groups=width)
        self.norm2 = nn.BatchNorm3d(width)
        self.mlp = ConvMlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Position by a convolution, attention over all voxels, and a perceptron."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class UniFormer(StageEncoder):
    """Volumes of one contrast to its last stage.

    Args:
        sizes: of the network.
    """

    in_channels = 1
    first_conv = "patch_embed1.proj"

    def __init__(self, sizes: UniFormerSizes) -> None:
        super().__init__()
        before = 1
        for stage, width, depth, hidden, patch in zip(
            STAGES, sizes.widths, sizes.depths, sizes.hidden, sizes.patches, strict=True
        ):
            kind = ConvBlock if stage <= 2 else AttentionBlock
            self.add_module(f"patch_embed{stage}", PatchEmbed3d(before, width, patch))
            self.add_module(f"blocks{stage}", nn.Sequential(*[kind(width, hidden) for _ in range(depth)]))
            before = width
        self.norm = nn.BatchNorm3d(before)
        self.widths = (before,)

    def forward(self, x: Float[Tensor, "B C D H W"]) -> list[Tensor]:
        """The normalised last stage, in a list; the network itself reads z first, then x and y."""
        x = x.permute(0, 1, 4, 2, 3)
        for stage in STAGES:
            x = self.get_submodule(f"blocks{stage}")(self.get_submodule(f"patch_embed{stage}")(x))
        return [self.norm(x).permute(0, 1, 3, 4, 2)]

    def groups(self) -> list[nn.Module]:
        """Its parts from input to output: the stages, each with its patch embedding, and the last normalisation."""
        stages: list[nn.Module] = [
            nn.ModuleList([self.get_submodule(f"patch_embed{stage}"), self.get_submodule(f"blocks{stage}")])
            for stage in STAGES
        ]
        return [*stages, self.norm]
