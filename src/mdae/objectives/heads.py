"""What objectives without a decoder share: pooled features, projection, the contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.networks.norm import NORM_EPS


def pooled(stages: Sequence[Tensor]) -> Float[Tensor, "B F"]:
    """The mean over the voxels of every stage, side by side, finest first, in float32: what `embed` returns."""
    return torch.cat([stage.float().mean(dim=(2, 3, 4)) for stage in stages], dim=1)


class Projection(nn.Module):
    """A perceptron from features to the space where they are compared, always in float32.

    Cosines of untrained features differ in the third decimal, which bfloat16 does not have.

    Args:
        widths: of the features, of each hidden layer, and of the result; ReLU between.
        normalise: standardise each hidden unit over the second last axis before its ReLU, without parameters.
    """

    def __init__(self, *widths: int, normalise: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.normalise = normalise

    def forward(self, x: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows P"]:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            for layer in self.layers[:-1]:
                x = layer(x)
                if self.normalise:
                    variance, mean = torch.var_mean(x, dim=-2, correction=0, keepdim=True)
                    x = (x - mean) * (variance + NORM_EPS).rsqrt()
                x = F.relu(x)
            projected: Tensor = self.layers[-1](x)
        return projected


def nt_xent(
    first: Float[Tensor, "N P"], second: Float[Tensor, "N P"], temperature: float
) -> tuple[Tensor, Tensor]:
    """The normalised temperature-scaled cross entropy of Chen et al. 2020, equation (1), over both views of N samples.

    For view i with partner j:  -log( exp(s_ij / tau) / sum over k != i of exp(s_ik / tau) ),  s the cosine. Where all
    projections are alike it is log(2N - 1).

    Returns:
        The mean over the 2N views, and the share of them whose partner is the most similar of all.
    """
    z = torch.cat([first, second]).float()
    similarity = F.cosine_similarity(z[:, None], z[None], dim=-1) / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = similarity.masked_fill(itself, -torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    found = similarity.detach().argmax(dim=1) == partner
    return F.cross_entropy(similarity, partner), found.float().mean()
