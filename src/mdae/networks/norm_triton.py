"""Normalisation, residual and activation as Triton kernels over channels-last volumes: backend "triton".

A volume is rows of C channels, one row a voxel. Both reductions, the statistics and the sums of the backward pass, are
split over voxels: each program reduces a run of rows, and a small second kernel joins what they found. Nothing is
summed by atomics, so that equal inputs give equal results. Forward reads x twice and writes once; backward reads x and
the gradient twice and writes once (once more for the gradient of a residual).

With TRITON_INTERPRET=1 the same kernels run on a CPU, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdae.networks.norm_plain import Kernels, NormAct
from mdae.networks.norm_settings import CHANNELS_LAST, NEGATIVE_SLOPE, NORM_EPS

TILE = 4096  # elements that a program has in registers at a time
MOST_COLUMNS = 64  # channels of a tile
PROGRAMS = 2048  # of a reduction, over all samples and channels
JOINED = 64  # partial sums that the second kernel reads at a time


def norm_act(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool) -> Tensor:
    """The backend; volumes in another layout are copied."""
    out: Tensor = NormAct.apply(x, scale, shift, residual, act, Kernels(forward, backward))
    return out


class _Grid:
    """How a tensor (B, C, D, H, W) is cut among programs.

    Attributes:
        voxels, channels: of one sample.
        rows, columns: of a tile.
        chunks, rows_a_chunk: of each sample in a reduction.
    """

    def __init__(self, x: Tensor) -> None:
        self.samples, self.channels = x.shape[:2]
        self.voxels = x[0, 0].numel()
        self.columns = min(MOST_COLUMNS, triton.next_power_of_2(self.channels))
        self.rows = TILE // self.columns
        self.across = triton.cdiv(self.channels, self.columns)
        tiles = triton.cdiv(self.voxels, self.rows)
        self.tiles = (tiles, self.samples, self.across)
        chunks = min(tiles, max(1, PROGRAMS // (self.samples * self.across)))
        self.rows_a_chunk = triton.cdiv(tiles, chunks) * self.rows
        self.chunks = triton.cdiv(self.voxels, self.rows_a_chunk)

    @property
    def reduction(self) -> tuple[int, int, int]:
        return self.chunks, self.samples, self.across

    def partial(self, x: Tensor) -> Tensor:
        """Room for two sums of every chunk."""
        return x.new_empty((self.samples, self.chunks, 2, self.channels), dtype=torch.float32)

    def per_plane(self, x: Tensor) -> Tensor:
        """Room for a number of every sample and channel."""
        return x.new_empty((self.samples, self.channels), dtype=torch.float32)

    @property
    def blocks(self) -> dict[str, Any]:
        return {"ROWS": self.rows, "COLUMNS": self.columns}


def forward(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Kernels`."""
    x, scale, shift = _laid(x), _plain(scale), _plain(shift)
    residual = None if residual is None else _laid(residual.to(x.dtype))
    grid = _Grid(x)
    size = (grid.voxels, grid.channels)
    partial, mean, rstd = grid.partial(x), grid.per_plane(x), grid.per_plane(x)
    _sum_statistics[grid.reduction](x, partial, *size, grid.rows_a_chunk, grid.chunks, **grid.blocks)
    _join_statistics[(grid.samples, grid.across)](
        x, partial, mean, rstd, *size, grid.chunks, NORM_EPS, JOINED=JOINED, COLUMNS=grid.columns
    )
    out = torch.empty_like(x, memory_format=CHANNELS_LAST)
    _apply[grid.tiles](
        *(x, residual, out, scale, shift, mean, rstd, *size, NEGATIVE_SLOPE),
        HAS_RESIDUAL=residual is not None,
        ACT=act,
        **grid.blocks,
    )
    return out, mean, rstd


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
    """See `Kernels`."""
    x, gradient, scale, shift = _laid(x), _laid(gradient), _plain(scale), _plain(shift)
    grid = _Grid(x)
    size = (grid.voxels, grid.channels)
    partial, to_scale, to_shift = grid.partial(x), grid.per_plane(x), grid.per_plane(x)
    planes = (scale, shift, mean, rstd)
    added = gradient if out is None else torch.empty_like(x, memory_format=CHANNELS_LAST)
    _sum_gradients[grid.reduction](
        *(gradient, x, out, added, partial, *planes, *size, grid.rows_a_chunk, grid.chunks, NEGATIVE_SLOPE),
        HAS_OUT=out is not None,
        ACT=act,
        **grid.blocks,
    )
    _join_gradients[(grid.samples, grid.across)](
        partial, to_scale, to_shift, *size, grid.chunks, JOINED=JOINED, COLUMNS=grid.columns
    )
    to_x = torch.empty_like(x, memory_format=CHANNELS_LAST)
    _apply_gradient[grid.tiles](
        *(added, x, to_x, *planes, to_scale, to_shift, *size, NEGATIVE_SLOPE),
        ACT=act and out is None,
        **grid.blocks,
    )
    return to_x, to_scale, to_shift, added


def _laid(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST)


def _plain(values: Tensor) -> Tensor:
    return values.float().contiguous()


@triton.jit
def _columns(column, channels, COLUMNS: tl.constexpr):
    """The channels of a program, and which of them exist."""
    cols = column * COLUMNS + tl.arange(0, COLUMNS)
    return cols, cols < channels


@triton.jit
def _tile(start, end, cols, there, channels, ROWS: tl.constexpr):
    """Offsets of a tile's elements in its sample, and which of them exist."""
    rows = start + tl.arange(0, ROWS)
    offsets = rows.to(tl.int64)[:, None] * channels + cols[None, :]
    return offsets, (rows < end)[:, None] & there[None, :]


@triton.jit(do_not_specialize=["voxels", "rows_a_chunk", "chunks"])
def _sum_statistics(
    x, partial, voxels, channels, rows_a_chunk, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sums of a chunk's values and of their squares, both about the sample's first voxel, lest digits cancel."""
    chunk, sample = tl.program_id(0), tl.program_id(1)
    cols, there = _columns(tl.program_id(2), channels, COLUMNS)
    x += sample.to(tl.int64) * voxels * channels
    origin = tl.load(x + cols, mask=there, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    end = tl.minimum((chunk + 1) * rows_a_chunk, voxels)
    for start in range(chunk * rows_a_chunk, end, ROWS):
        offsets, inside = _tile(start, end, cols, there, channels, ROWS)
        value = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32) - origin[None, :]
        value = tl.where(inside, value, 0.0)
        total += value
        squares += value * value
    to = partial + (sample * chunks + chunk) * 2 * channels + cols
    tl.store(to, tl.sum(total, axis=0), mask=there)
    tl.store(to + channels, tl.sum(squares, axis=0), mask=there)


@triton.jit
def _joined(partial, sample, cols, there, channels, chunks, JOINED: tl.constexpr, COLUMNS: tl.constexpr):
    """Both sums of a sample over its chunks."""
    one = tl.zeros((JOINED, COLUMNS), tl.float32)
    two = tl.zeros((JOINED, COLUMNS), tl.float32)
    for start in range(0, chunks, JOINED):
        chunk = start + tl.arange(0, JOINED)
        at = partial + ((sample * chunks + chunk) * 2 * channels)[:, None] + cols[None, :]
        inside = (chunk < chunks)[:, None] & there[None, :]
        one += tl.load(at, mask=inside, other=0.0)
        two += tl.load(at + channels, mask=inside, other=0.0)
    return tl.sum(one, axis=0), tl.sum(two, axis=0)


@triton.jit(do_not_specialize=["voxels", "chunks"])
def _join_statistics(
    x, partial, mean, rstd, voxels, channels, chunks, eps, JOINED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Each plane's mean, and one over its standard deviation."""
    sample = tl.program_id(0)
    cols, there = _columns(tl.program_id(1), channels, COLUMNS)
    total, squares = _joined(partial, sample, cols, there, channels, chunks, JOINED, COLUMNS)
    origin = tl.load(x + sample.to(tl.int64) * voxels * channels + cols, mask=there, other=0.0).to(tl.float32)
    apart = total / voxels
    variance = tl.maximum(squares / voxels - apart * apart, 0.0)
    tl.store(mean + sample * channels + cols, origin + apart, mask=there)
    tl.store(rstd + sample * channels + cols, 1.0 / tl.sqrt(variance + eps), mask=there)


@triton.jit(do_not_specialize=["voxels"])
def _apply(
    x,
    residual,
    out,
    scale,
    shift,
    mean,
    rstd,
    voxels,
    channels,
    slope,
    HAS_RESIDUAL: tl.constexpr,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Normalise, scale and shift, add, activate."""
    sample = tl.program_id(1)
    cols, there = _columns(tl.program_id(2), channels, COLUMNS)
    plane = sample * channels + cols
    gain = tl.load(scale + plane, mask=there, other=0.0) * tl.load(rstd + plane, mask=there, other=0.0)
    middle, beyond = (
        tl.load(mean + plane, mask=there, other=0.0),
        tl.load(shift + plane, mask=there, other=0.0),
    )
    offsets, inside = _tile(tl.program_id(0) * ROWS, voxels, cols, there, channels, ROWS)
    offsets += sample.to(tl.int64) * voxels * channels
    z = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    z = (z - middle[None, :]) * gain[None, :] + beyond[None, :]
    if HAS_RESIDUAL:
        z += tl.load(residual + offsets, mask=inside, other=0.0).to(tl.float32)
    if ACT:
        z = tl.where(z > 0, z, slope * z)
    tl.store(out + offsets, z.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["voxels", "rows_a_chunk", "chunks"])
def _sum_gradients(
    gradient,
    x,
    out,
    added,
    partial,
    scale,
    shift,
    mean,
    rstd,
    voxels,
    channels,
    rows_a_chunk,
    chunks,
    slope,
    HAS_OUT: tl.constexpr,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of a chunk's g and g h; where the activation's side is read from `out`, g is written as well."""
    chunk, sample = tl.program_id(0), tl.program_id(1)
    cols, there = _columns(tl.program_id(2), channels, COLUMNS)
    plane = sample * channels + cols
    middle, over = tl.load(mean + plane, mask=there, other=0.0), tl.load(rstd + plane, mask=there, other=0.0)
    gain, beyond = (
        tl.load(scale + plane, mask=there, other=0.0),
        tl.load(shift + plane, mask=there, other=0.0),
    )
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    products = tl.zeros((ROWS, COLUMNS), tl.float32)
    end = tl.minimum((chunk + 1) * rows_a_chunk, voxels)
    for start in range(chunk * rows_a_chunk, end, ROWS):
        offsets, inside = _tile(start, end, cols, there, channels, ROWS)
        offsets += sample.to(tl.int64) * voxels * channels
        h = (tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32) - middle[None, :]) * over[None, :]
        g = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
        if ACT:
            if HAS_OUT:
                side = tl.load(out + offsets, mask=inside, other=0.0).to(tl.float32)
            else:
                side = h * gain[None, :] + beyond[None, :]
            g = tl.where(side > 0, g, slope * g)
        if HAS_OUT:
            tl.store(added + offsets, g.to(added.dtype.element_ty), mask=inside)
        total += g
        products += g * h
    to = partial + (sample * chunks + chunk) * 2 * channels + cols
    tl.store(to, tl.sum(total, axis=0), mask=there)
    tl.store(to + channels, tl.sum(products, axis=0), mask=there)


@triton.jit(do_not_specialize=["voxels", "chunks"])
def _join_gradients(
    partial, to_scale, to_shift, voxels, channels, chunks, JOINED: tl.constexpr, COLUMNS: tl.constexpr
):
    """The gradients of scale and shift."""
    sample = tl.program_id(0)
    cols, there = _columns(tl.program_id(1), channels, COLUMNS)
    total, products = _joined(partial, sample, cols, there, channels, chunks, JOINED, COLUMNS)
    tl.store(to_shift + sample * channels + cols, total, mask=there)
    tl.store(to_scale + sample * channels + cols, products, mask=there)


@triton.jit(do_not_specialize=["voxels"])
def _apply_gradient(
    gradient,
    x,
    to_x,
    scale,
    shift,
    mean,
    rstd,
    to_scale,
    to_shift,
    voxels,
    channels,
    slope,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of x."""
    sample = tl.program_id(1)
    cols, there = _columns(tl.program_id(2), channels, COLUMNS)
    plane = sample * channels + cols
    middle, over = tl.load(mean + plane, mask=there, other=0.0), tl.load(rstd + plane, mask=there, other=0.0)
    gain, beyond = (
        tl.load(scale + plane, mask=there, other=0.0),
        tl.load(shift + plane, mask=there, other=0.0),
    )
    mean_g = tl.load(to_shift + plane, mask=there, other=0.0) / voxels
    mean_gh = tl.load(to_scale + plane, mask=there, other=0.0) / voxels
    offsets, inside = _tile(tl.program_id(0) * ROWS, voxels, cols, there, channels, ROWS)
    offsets += sample.to(tl.int64) * voxels * channels
    h = (tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32) - middle[None, :]) * over[None, :]
    g = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
    if ACT:
        g = tl.where(h * gain[None, :] + beyond[None, :] > 0, g, slope * g)
    result = (gain * over)[None, :] * (g - mean_g[None, :] - h * mean_gh[None, :])
    tl.store(to_x + offsets, result.to(to_x.dtype.element_ty), mask=inside)
