"""Instance normalisation, FiLM (6), residual and activation: the one place where these four are computed, and how.

All four act voxel by voxel once the statistics are known, and on a GPU their cost is the memory that they move. So they
are one function with several backends, equal to float round-off, of which each kind of device has its own:

- "rows": PyTorch's own kernels on the batch laid into the channel axis; the CPU's.
- "triton": kernels over channels-last volumes, written for this; a CUDA device's where Triton is there.
- "split": the same arithmetic in plain PyTorch, each plane's statistics in parts, so that all of a GPU takes part; a
  CUDA device's without Triton. (Native batch normalisation takes one block of threads for each plane.)
- "compiled": the same code through `torch.compile`; never chosen by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mdae.networks.norm_settings import CHANNELS_LAST as CHANNELS_LAST
from mdae.networks.norm_settings import NEGATIVE_SLOPE as NEGATIVE_SLOPE
from mdae.networks.norm_settings import NORM_EPS as NORM_EPS
from mdae.tensors import Batch

Backend = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def lay_channels_last(module: nn.Module) -> None:
    """Lay the weights of a module's convolutions channels-last, in place, so that no step has to turn them.

    Kernels of one voxel lie so already; told to, they would differ from their gradients in the strides of axes of one,
    and processes that share gradients would copy them.
    """
    for parameter in module.parameters():
        if parameter.dim() == 5 and parameter[0, 0].numel() > 1:
            parameter.data = parameter.data.to(memory_format=CHANNELS_LAST)


class Modulation(NamedTuple):
    """FiLM's parameters for one normalisation at the batch's times, (B, C) each; both 0 are the identity (6)."""

    gamma: Tensor
    beta: Tensor


def norm_act(
    x: Batch,
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    film: Modulation | None = None,
    residual: Batch | None = None,
    act: bool = False,
) -> Batch:
    """`act((norm(x) * weight + bias) * (gamma + 1) + beta + residual)`, the act a leaky ReLU.

    FiLM is affine per channel and so is the end of the normalisation, hence both are one affine map per sample and
    channel: conditioning costs no pass over the voxels. Outside of training the same map is the fold.

    Args:
        x: what is normalised over the voxels of each sample and channel.
        weight, bias: of the normalisation.
        film: FiLM's parameters; None leaves it out.
        residual: added before the activation, of the shape of x; None for none.
        act: whether the activation is applied.

    Returns:
        A new tensor of the type of x; nothing given is changed.
    """
    if film is None:
        scale, shift = weight.expand(len(x), -1), bias.expand(len(x), -1)
    else:
        scale = weight * (film.gamma + 1)
        shift = bias * (film.gamma + 1) + film.beta
    return _backend(backend_of(x.device.type))(x, scale, shift, residual, act)


def backend_of(device_type: str) -> str:
    """The backend in use on a kind of device."""
    return _forced or chosen(device_type)


@cache
def chosen(device_type: str) -> str:
    """The backend of a kind of device."""
    if device_type != "cuda":
        return "rows"
    return "triton" if importlib.util.find_spec("triton") else "split"


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Within it, every normalisation is computed by this backend, for tests and comparisons."""
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


_forced: str | None = None


@cache
def _backend(name: str) -> Backend:
    """A backend by name; what it needs is imported when it is first wanted."""
    if name == "rows":
        return rows
    if name == "triton":
        from mdae.networks import norm_triton

        return norm_triton.norm_act
    from mdae.networks import norm_plain

    return {"split": norm_plain.split, "compiled": norm_plain.compiled}[name]


def rows(x: Batch, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool) -> Batch:
    """By PyTorch's kernels, the batch laid into the channel axis, so that each sample has its own affine map.

    What follows the normalisation is done in place before the volumes are shaped back: in place on a view, autograd
    would copy.
    """
    b, c = x.shape[:2]
    laid = x.reshape(1, b * c, *x.shape[2:])
    if x.is_cuda:  # group_norm leaves bfloat16 under autocast there, batch_norm does not
        out = F.batch_norm(laid, None, None, scale.flatten(), shift.flatten(), training=True, eps=NORM_EPS)
    else:
        out = F.group_norm(laid, b * c, scale.flatten(), shift.flatten(), eps=NORM_EPS)
    if residual is not None:
        out = out.add_(residual.reshape(out.shape))
    if act:
        out = F.leaky_relu(out, NEGATIVE_SLOPE, inplace=True)
    return out.view(x.shape)
