"""Joining two channels-last volumes as channels of one, a bias added to the first, and taking them apart again."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdae.networks.norm import CHANNELS_LAST
from mdae.networks.norm_triton import MOST_COLUMNS, PROGRAMS, TILE


def join(x: Tensor, bias: Tensor, finer: Tensor) -> Tensor:
    """`torch.cat([x + bias, finer], dim=1)` of two volumes (B, C, D, H, W) of one type."""
    x, finer = (volume.contiguous(memory_format=CHANNELS_LAST) for volume in (x, finer))
    b, c, *sides = x.shape
    out = torch.empty((b, 2 * c, *sides), dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
    voxels, columns = x[:, 0].numel(), min(MOST_COLUMNS, triton.next_power_of_2(c))
    grid = (triton.cdiv(voxels, TILE // columns), triton.cdiv(c, columns))
    _join[grid](x, bias.float(), finer, out, voxels, c, ROWS=TILE // columns, COLUMNS=columns)
    return out


def part(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, the bias and finer."""
    gradient = gradient.contiguous(memory_format=CHANNELS_LAST)
    b, both, *sides = gradient.shape
    c = both // 2
    to_x, to_finer = (
        torch.empty((b, c, *sides), dtype=gradient.dtype, device=gradient.device, memory_format=CHANNELS_LAST)
        for _ in range(2)
    )
    voxels, columns = gradient[:, 0].numel(), min(MOST_COLUMNS, triton.next_power_of_2(c))
    rows = TILE // columns
    across = triton.cdiv(c, columns)
    tiles = triton.cdiv(voxels, rows)
    rows_a_chunk = triton.cdiv(tiles, max(1, PROGRAMS // across)) * rows
    chunks = triton.cdiv(voxels, rows_a_chunk)
    sums = gradient.new_empty((chunks, c), dtype=torch.float32)
    _part[(chunks, across)](
        *(gradient, to_x, to_finer, sums, voxels, c, rows_a_chunk), ROWS=rows, COLUMNS=columns
    )
    return to_x, sums.sum(0), to_finer


@triton.jit(do_not_specialize=["voxels"])
def _join(x, bias, finer, out, voxels, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = cols < channels
    inside = (rows < voxels)[:, None] & there[None, :]
    at = rows[:, None] * channels + cols[None, :]
    to = rows[:, None] * (2 * channels) + cols[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + cols, mask=there, other=0.0)[None, :]
    tl.store(out + to, value.to(out.dtype.element_ty), mask=inside)
    tl.store(out + to + channels, tl.load(finer + at, mask=inside, other=0.0), mask=inside)


@triton.jit(do_not_specialize=["voxels", "rows_a_chunk"])
def _part(
    gradient,
    to_x,
    to_finer,
    sums,
    voxels,
    channels,
    rows_a_chunk,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    chunk = tl.program_id(0)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = cols < channels
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    end = tl.minimum((chunk + 1) * rows_a_chunk, voxels)
    for start in range(chunk * rows_a_chunk, end, ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < end)[:, None] & there[None, :]
        at = rows[:, None] * channels + cols[None, :]
        source = gradient + rows[:, None] * (2 * channels) + cols[None, :]
        value = tl.load(source, mask=inside, other=0.0)
        tl.store(to_x + at, value, mask=inside)
        tl.store(to_finer + at, tl.load(source + channels, mask=inside, other=0.0), mask=inside)
        total += value.to(tl.float32)
    tl.store(sums + chunk * channels + cols, tl.sum(total, axis=0), mask=there)
