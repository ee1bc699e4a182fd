"""Convolution of volumes; on a GPU, where channels are few, by the fastest of several ways to say the same.

Tensor cores are fed by channels, and at full resolution there are few: 32 of them reach a third of the arithmetic that
128 do. In a channels-last volume neighbours along W lie side by side, so that f neighbours of C channels are, without a
copy, one voxel of f C channels. A convolution then is another one of more channels whose weight is the first's, put
where it belongs among zeros. Which is faster depends on the device and its library, so that each way is timed once for
each shape, forward and for both gradients, as cuDNN itself does with its algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_LAST = torch.channels_last_3d
FEW = 64  # channels, of what comes in or goes out
WIDE = 128  # channels, with which tensor cores are busy
LARGE = 2**19  # voxels of a batch; smaller volumes cost little either way
ALIGNED = 8  # channels that tensor cores want at least
TIMED = 3  # runs


class Way(NamedTuple):
    """How a convolution with stride 1 that keeps the size is said as another.

    Attributes:
        fold: neighbours along W of the result that become channels of one voxel.
        given: what it is computed from: the volume as it is, by a longer kernel with a stride ("window"); the volume
            folded alike ("folded"); or its windows along W laid into channels, a copy ("gathered").
    """

    fold: int
    given: Literal["window", "folded", "gathered"]


PLAIN = Way(1, "window")


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with stride 1 and an odd kernel that keeps the size, without a bias; differentiable once.

    Args:
        x: (B, C, D, H, W).
        weight: (channels, C, k, k, k).
    """
    padding = tuple(side // 2 for side in weight.shape[2:])
    if not x.is_cuda:
        return F.conv3d(x, weight, None, 1, padding)
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    few = min(weight.shape[:2]) <= FEW and max(weight.shape[:2]) <= WIDE
    if not few or x[:, 0].numel() < LARGE or dtype not in (torch.bfloat16, torch.float16):
        return F.conv3d(x, weight, None, 1, padding)
    out: Tensor = _Convolution.apply(x.to(dtype), weight.to(dtype))  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    """Each of the three computations by its fastest way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]  # autograd's is looser
        ctx.save_for_backward(x, weight)
        return _fastest("forward", forward, x, weight, weight.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:  # itself a convolution, for the stride is 1
            turned = weight.transpose(0, 1).flip(2, 3, 4)
            to_x = _fastest("forward", forward, gradient, turned, turned.shape)
        if ctx.needs_input_grad[1]:
            found = _fastest("weight", weight_gradient, x, gradient, weight.shape)
            to_weight = torch.empty_like(weight).copy_(
                found
            )  # in the weight's own strides, for those who share it
        return to_x, to_weight


def ways(shape: Sequence[int], width: int) -> list[Way]:
    """The ways to compute a convolution of a weight of this shape on volumes of this width, the plain one first."""
    channels, of, *_, kernel = shape
    if kernel == 1:
        others = [Way(ALIGNED, "folded")]
    elif of < ALIGNED:
        others = [Way(ALIGNED // 2, "gathered")] if ALIGNED // 2 + kernel - 1 <= ALIGNED else []
    else:
        others = [Way(fold, "window") for fold in (2, 4) if fold * channels <= WIDE] + [Way(2, "folded")]
    return [PLAIN, *(way for way in others if width % way.fold == 0)]


def forward(way: Way, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution, in channels-last."""
    spread = _spread(way, weight)
    stride, padding = _steps(way, weight.shape)
    out = F.conv3d(_given(way, x, weight.shape[-1]), spread, None, stride, padding)
    return _unfolded(out.contiguous(memory_format=CHANNELS_LAST), way.fold)


def weight_gradient(way: Way, x: Tensor, gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of a weight of this shape, float32 at least."""
    channels, of, *_, kernel = shape
    place = _places(way, kernel, x.device, torch.promote_types(x.dtype, torch.float32))
    across, along = place.shape[2:]
    stride, padding = _steps(way, shape)
    wide = x.new_empty((way.fold * channels, across * of, *shape[2:4], along))
    found: Tensor = torch.ops.aten.convolution_backward(
        *(_folded(gradient, way.fold), _given(way, x, kernel), wide.contiguous(memory_format=CHANNELS_LAST)),
        *(None, stride, padding, (1, 1, 1), False, (0, 0, 0), 1, (False, True, False)),
    )[1]
    parts = found.to(place.dtype).reshape(way.fold, channels, across, of, *shape[2:4], along)
    return torch.einsum("pocidhq,pkcq->oidhk", parts, place)


def _spread(way: Way, weight: Tensor) -> Tensor:
    """The weight of the other convolution."""
    if way == PLAIN:
        return weight.contiguous(memory_format=CHANNELS_LAST)
    place = _places(way, weight.shape[-1], weight.device, weight.dtype)
    wide = torch.einsum("oidhk,pkcq->pocidhq", weight, place)
    wide = wide.reshape(place.shape[0] * weight.shape[0], -1, *weight.shape[2:4], place.shape[3])
    return wide.contiguous(memory_format=CHANNELS_LAST)


@cache
def _places(way: Way, kernel: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """1 where output p of a fold takes the kernel's voxel k, at neighbour c and voxel q of the other kernel, else 0."""
    fold, around = way.fold, kernel // 2
    if way.given == "folded":
        before = -(-around // fold)
        place = torch.zeros(fold, kernel, fold, 2 * before + 1)
    elif way.given == "gathered":
        place = torch.zeros(fold, kernel, ALIGNED, 1)
    else:
        place = torch.zeros(fold, kernel, 1, fold + kernel - 1)
    for p in range(fold):
        for k in range(kernel):
            if way.given == "folded":
                q, c = divmod(p + k - around + before * fold, fold)
            else:
                c, q = (p + k, 0) if way.given == "gathered" else (0, p + k)
            place[p, k, c, q] = 1
    return place.to(device, dtype)


def _steps(way: Way, shape: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Stride and padding of the other convolution."""
    *ends, around = (side // 2 for side in shape[2:])
    across = {"window": around, "folded": -(-around // way.fold), "gathered": 0}[way.given]
    return (1, 1, way.fold if way.given == "window" else 1), (ends[0], ends[1], across)


def _given(way: Way, x: Tensor, kernel: int) -> Tensor:
    """What the other convolution takes for x."""
    if way.given == "window":
        return x.contiguous(memory_format=CHANNELS_LAST)
    if way.given == "folded":
        return _folded(x, way.fold)
    around = kernel // 2
    windows = F.pad(x, (around, ALIGNED - around - way.fold)).unfold(4, ALIGNED, way.fold)
    laid = windows.permute(0, 2, 3, 4, 5, 1)  # (B, D, H, W / fold, neighbours, C)
    return laid.reshape(*laid.shape[:4], -1).permute(0, 4, 1, 2, 3)


def _folded(x: Tensor, fold: int) -> Tensor:
    """(B, C, D, H, W) as (B, fold C, D, H, W / fold), a view of a channels-last volume."""
    b, c, d, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(b, d, h, w // fold, fold * c).permute(0, 4, 1, 2, 3)


def _unfolded(x: Tensor, fold: int) -> Tensor:
    """The inverse."""
    b, c, d, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(b, d, h, w * fold, c // fold).permute(0, 4, 1, 2, 3)


CHOSEN: dict[tuple[object, ...], Way] = {}  # by computation, device and shapes, as timed


def _fastest(
    name: str, function: Callable[..., Tensor], one: Tensor, other: Tensor, shape: Sequence[int]
) -> Tensor:
    """The function by the way that was fastest when these shapes were first seen."""
    key = (name, one.device, one.dtype, one.shape, other.shape, tuple(shape))
    last = () if name == "forward" else (shape,)
    if key not in CHOSEN:
        CHOSEN[key] = min(
            ways(shape, one.shape[-1]),
            key=lambda way: _milliseconds(lambda: function(way, one, other, *last)),
        )
    return function(CHOSEN[key], one, other, *last)


def _milliseconds(function: Callable[[], object]) -> float:
    """Of one run on the device; infinite for what does not fit into its memory."""
    try:
        function()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()  # type: ignore[no-untyped-call]
        for _ in range(TIMED):
            function()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()  # type: ignore[no-untyped-call]
        return float(start.elapsed_time(end)) / TIMED  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return float("inf")
