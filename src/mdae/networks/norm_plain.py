"""Normalisation, residual and activation in plain PyTorch, forward and backward: backends "split" and "compiled".

The arithmetic is float32 whatever the volumes are, and any layout of the volumes is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mdae.networks.norm_settings import NEGATIVE_SLOPE, NORM_EPS

MOST_PARTS = 256  # that a plane's voxels are cut into
DISTINCT_SHAPES = 64  # that a compiled function is compiled for: each layer's, with and without a residual


class Kernels(NamedTuple):
    """Both directions of one backend.

    Attributes:
        forward: (x, scale, shift, residual, act) to (out, mean, rstd); the last four are (B, C), the last two float32.
        backward: (gradient, x, scale, shift, mean, rstd, out, act) to the gradients of x, scale, shift and what was
            added before the activation. `out` is given where the activation's side cannot be told from x alone.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


class NormAct(torch.autograd.Function):
    """The map of `norm_act` with a backward pass of its own; it keeps x and, with a residual, what it returned.

    What it returned the next convolution keeps as well, so that it costs no memory.
    """

    @staticmethod
    def forward(  # type: ignore[override]  # autograd's own signature is looser
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        act: bool,
        kernels: Kernels,
    ) -> Tensor:
        out, mean, rstd = kernels.forward(x, scale, shift, residual, act)
        kept = out if act and residual is not None else None
        ctx.save_for_backward(x, scale, shift, mean, rstd, kept)
        ctx.act, ctx.kernels, ctx.has_residual = act, kernels, residual is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, scale, shift, mean, rstd, out = ctx.saved_tensors
        to_x, to_scale, to_shift, added = ctx.kernels.backward(
            gradient, x, scale, shift, mean, rstd, out, ctx.act
        )
        return to_x, to_scale, to_shift, added if ctx.has_residual else None, None, None


def split(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool) -> Tensor:
    """Plain PyTorch, operation by operation."""
    out: Tensor = NormAct.apply(x, scale, shift, residual, act, Kernels(forward, backward))  # type: ignore[no-untyped-call]
    return out


def compiled(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool) -> Tensor:
    """The same, each direction fused by `torch.compile`."""
    out: Tensor = NormAct.apply(x, scale, shift, residual, act, _compiled())  # type: ignore[no-untyped-call]
    return out


@cache
def _compiled() -> Kernels:
    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        fused = torch.compile(function, dynamic=False)

        def run(*arguments: Any) -> Any:
            with torch._dynamo.config.patch(recompile_limit=DISTINCT_SHAPES):
                return fused(*arguments)

        return run

    return Kernels(of(forward), of(backward))


def forward(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Kernels`."""
    mean, variance = plane_statistics(x)
    rstd = (variance + NORM_EPS).rsqrt()
    z = (x.float() - _wide(mean)) * _wide(rstd * scale) + _wide(shift)
    if residual is not None:
        z = z + residual.float()
    if act:
        z = F.leaky_relu(z, NEGATIVE_SLOPE)
    return z.to(x.dtype), mean, rstd


def backward(
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    out: Tensor | None,
    act: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `Kernels`. With g the gradient before the activation and n voxels, h the normalised volume:

    to shift  sum(g),   to scale  sum(g h),   to x  scale rstd (g - sum(g) / n - h sum(g h) / n).
    """
    h = (x.float() - _wide(mean)) * _wide(rstd)
    g = gradient.float()
    if act:
        side = h * _wide(scale) + _wide(shift) if out is None else out
        g = torch.where(side > 0, g, NEGATIVE_SLOPE * g)
    to_shift, to_scale = _plane_sum(g), _plane_sum(g * h)
    n = x[0, 0].numel()
    to_x = _wide(scale * rstd) * (g - _wide(to_shift / n) - h * _wide(to_scale / n))
    return to_x.to(x.dtype), to_scale, to_shift, g.to(x.dtype)


def plane_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the voxels of each sample and channel, (B, C), each part's about its own mean."""
    variances, means = torch.var_mean(_in_parts(x.float()), dim=3, correction=0)
    spread, mean = torch.var_mean(means, dim=2, correction=0)
    return mean, variances.mean(dim=2) + spread


def _plane_sum(x: Tensor) -> Tensor:
    return _in_parts(x).sum(dim=3).sum(dim=2)


def _in_parts(x: Tensor) -> Tensor:
    """(B, C, D, H, W) as (B, C, parts, voxels of a part), a view in either layout."""
    parts, voxels = 1, x[0, 0].numel()
    while parts < MOST_PARTS and voxels % (2 * parts) == 0:
        parts *= 2
    return x.flatten(2).view(x.shape[0], x.shape[1], parts, voxels // parts)


def _wide(values: Tensor) -> Tensor:
    return values[:, :, None, None, None]
