"""What the decoder joins: the upsampled volume, its bias and the encoder's volume, as channels of one.

On a GPU this is one kernel each way, which reads and writes every number once; bias, concatenation, two slices and a
sum in PyTorch move three times as much.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdae.networks.norm import backend_of
from mdae.tensors import Batch


def upsampled_beside(up: nn.ConvTranspose3d, x: Batch, finer: Batch) -> Batch:
    """`torch.cat([up(x), finer], dim=1)`, both of as many channels."""
    if backend_of(x.device.type) != "triton":
        return torch.cat([up(x), finer], dim=1)
    upsampled = F.conv_transpose3d(x, up.weight, None, up.stride)  # type: ignore[arg-type]
    out: Tensor = _Join.apply(upsampled, up.bias, finer.to(upsampled.dtype))  # type: ignore[no-untyped-call]
    return out


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, finer: Tensor) -> Tensor:  # type: ignore[override]
        from mdae.networks import join_triton  # here, so that nothing needs Triton that does not use it

        return join_triton.join(x, bias, finer)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        from mdae.networks import join_triton

        return join_triton.part(gradient)
