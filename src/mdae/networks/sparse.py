"""The residual encoder as a sparse one: what is hidden stays zero at every layer and enters no statistics.

Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling (SparK), ICLR 2023.
A dense convolution lets visible voxels spread into hidden ones, layer by layer, until the mask is gone. Zeroing hidden
voxels after each convolution, and normalising over the visible ones alone, is what submanifold sparse convolutions
compute. The layers and parameters are those of the dense encoder: nothing is copied or converted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mdae.networks.base import SparseFeatures
from mdae.networks.blocks import ConvNorm, ResidualBlock, Stack, Stage
from mdae.networks.norm import CHANNELS_LAST, NEGATIVE_SLOPE, NORM_EPS, Modulation
from mdae.tensors import Batch

Visible = Bool[Tensor, "B 1 D H W"]


def sparse_features(
    stem: Stack,
    stages: Sequence[Stage],
    x: Batch,
    visible: Visible,
    films: Sequence[Modulation] | None = None,
) -> list[SparseFeatures]:
    """Every stage of an encoder, finest first, computed from the visible voxels alone.

    A voxel of a coarser stage is visible if any of the voxels that it stands for is.

    Args:
        stem, stages: of the dense encoder; with all visible the result is its own.
        x: (B, C, D, H, W); what stands in hidden voxels does not matter.
        visible: True where the network may look.
        films: one modulation a residual block, in order; None for a plain encoder.
    """
    if x.is_cuda:
        x = x.to(memory_format=CHANNELS_LAST)
    first = stem.convs[0]
    assert isinstance(first, ConvNorm)
    x = sparse_conv_norm(first, x.masked_fill(~visible, 0.0), visible)
    modulations = iter(films or ())
    outputs: list[SparseFeatures] = []
    for stage in stages:
        if outputs:
            visible = F.max_pool3d(visible.to(x.dtype), 2) > 0
        for block in stage.blocks:
            assert isinstance(block, ResidualBlock)
            x = sparse_block(block, x, visible, next(modulations, None))
        outputs.append(SparseFeatures(x, visible))
    return outputs


def sparse_block(block: ResidualBlock, x: Batch, visible: Visible, film: Modulation | None) -> Batch:
    """A residual block; `visible` is that of its output, which a stride makes coarser than its input."""
    out = sparse_conv_norm(block.conv2, sparse_conv_norm(block.conv1, x, visible, film), visible)
    for layer in block.skip:
        if isinstance(layer, ConvNorm):
            x = sparse_conv_norm(layer, x, visible)
        else:
            x = layer(x)  # the mean of hidden voxels alone is 0
    return F.leaky_relu(out + x, NEGATIVE_SLOPE, inplace=True)


def sparse_conv_norm(layer: ConvNorm, x: Batch, visible: Visible, film: Modulation | None = None) -> Batch:
    """Convolve, hide again, normalise over what is visible; `x` is 0 where hidden, and so is the result."""
    x = layer.convolve(x) * visible
    x = sparse_instance_norm(x, visible, layer.norm.weight, layer.norm.bias, film)
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True) if layer.act else x


def sparse_instance_norm(
    x: Batch,
    visible: Visible,
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    film: Modulation | None = None,
) -> Batch:
    """Instance normalisation with FiLM (6), its mean and variance over each sample's visible voxels alone.

    Args:
        x: 0 where hidden; the mean rests on that.
        visible: which voxels count.
        weight, bias, film: as in the dense normalisation.

    Returns:
        The normalised volumes, 0 where hidden; all 0 for a sample that shows nothing.
    """
    voxels = (2, 3, 4)
    values = x.float()
    number = visible.sum(voxels, keepdim=True).clamp_min(1)
    # Sums and products: on a CPU `var_mean` takes a hundred times as long, `masked_fill` three times.
    centred = (values - values.sum(voxels, keepdim=True) / number) * visible
    variance = centred.square().sum(voxels, keepdim=True) / number
    scale, shift = weight[None], bias[None]
    if film is not None:
        scale, shift = scale * (film.gamma + 1), shift * (film.gamma + 1) + film.beta
    gain = scale[:, :, None, None, None] * (variance + NORM_EPS).rsqrt()
    out = torch.addcmul(shift[:, :, None, None, None], centred, gain)
    return (out * visible).to(x.dtype)
