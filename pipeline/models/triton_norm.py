"""Triton kernels of batch normalisation followed by ReLU, in training, on channels-last maps.

torch takes two kernels more in each direction, one of which only reads what the other has just written. Forward: one
pass for the sums, one that normalises and cuts. Backward: one for the sums, one for the gradient; which values were cut
is computed again from the input. Sums of each block of pixels are stored apart and added in a fixed order.
"""

# Kernels are written in Triton's dialect, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_P, _TILE_C = 32, 64
_BLOCK_P = 64  # pixels of a step of the sums: enough loads on their way
_SUM_B, _SUM_C = 128, 16  # blocks and channels of a program that adds blocks up
_MOST_BLOCKS = 1024  # of pixels: a few programs for each multiprocessor


@triton.jit
def _sums(x, sums, pixels, channels, tiles, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    """``sums`` (blocks, 2, C): of x - x0 and of its square over the block's pixels, x0 being the first pixel:
    differences do not cancel where the mean is large.
    """
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    x0 = tl.load(x + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    first = tl.zeros((TILE_P, TILE_C), dtype=tl.float32)
    second = tl.zeros((TILE_P, TILE_C), dtype=tl.float32)
    for tile in range(tiles):
        p = (tl.program_id(0).to(tl.int64) * tiles + tile) * TILE_P + tl.arange(0, TILE_P)
        here = (p[:, None] < pixels) & inside[None, :]
        away = tl.load(x + p[:, None] * channels + c[None, :], mask=here, other=0.0).to(tl.float32) - x0
        away = tl.where(here, away, 0.0)
        first += away
        second += away * away
    row = sums + tl.program_id(0) * 2 * channels + c
    tl.store(row, tl.sum(first, axis=0), mask=inside)
    tl.store(row + channels, tl.sum(second, axis=0), mask=inside)


@triton.jit
def _totals(sums, c, inside, channels, blocks, TILE_B: tl.constexpr, TILE_C: tl.constexpr):
    """Both sums over all blocks."""
    first, second = tl.zeros((TILE_B, TILE_C), dtype=tl.float32), tl.zeros((TILE_B, TILE_C), dtype=tl.float32)
    for start in range(0, blocks, TILE_B):
        block = start + tl.arange(0, TILE_B)
        at = block[:, None] * 2 * channels + c[None, :]
        here = (block[:, None] < blocks) & inside[None, :]
        first += tl.load(sums + at, mask=here, other=0.0)
        second += tl.load(sums + at + channels, mask=here, other=0.0)
    return tl.sum(first, axis=0), tl.sum(second, axis=0)


@triton.jit
def _statistics(
    x,
    sums,
    mean,
    scale,
    running_mean,
    running_var,
    pixels,
    channels,
    blocks,
    momentum,
    eps,
    TILE_B: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """``mean`` and ``scale``, 1 / standard deviation, of each channel; the running statistics follow."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    first, second = _totals(sums, c, inside, channels, blocks, TILE_B, TILE_C)
    count = pixels.to(tl.float32)
    away = first / count
    var = second / count - away * away
    var = tl.where(var < 0.0, 0.0, var)  # not a maximum, which would drop NaN
    middle = tl.load(x + c, mask=inside, other=0.0).to(tl.float32) + away
    tl.store(mean + c, middle, mask=inside)
    tl.store(scale + c, 1.0 / tl.sqrt(var + eps), mask=inside)
    before = tl.load(running_mean + c, mask=inside, other=0.0)
    tl.store(running_mean + c, before + momentum * (middle - before), mask=inside)
    before = tl.load(running_var + c, mask=inside, other=0.0)
    tl.store(running_var + c, before + momentum * (var * (count / (count - 1.0)) - before), mask=inside)


@triton.jit
def _normalise(x, mean, scale, weight, bias, out, pixels, channels, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    p = tl.program_id(0).to(tl.int64) * TILE_P + tl.arange(0, TILE_P)
    here = (p[:, None] < pixels) & inside[None, :]
    at = p[:, None] * channels + c[None, :]
    middle = tl.load(mean + c, mask=inside, other=0.0)[None, :]
    factor = (tl.load(scale + c, mask=inside, other=0.0) * tl.load(weight + c, mask=inside, other=0.0))[None, :]
    shift = tl.load(bias + c, mask=inside, other=0.0)[None, :]
    value = (tl.load(x + at, mask=here, other=0.0).to(tl.float32) - middle) * factor + shift
    # Not a maximum, which would drop NaN.
    tl.store(out + at, tl.where(value <= 0.0, 0.0, value).to(out.dtype.element_ty), mask=here)


@triton.jit
def _gradient_sums(
    grad, x, mean, scale, weight, bias, sums, pixels, channels, tiles, TILE_P: tl.constexpr, TILE_C: tl.constexpr
):
    """``sums`` (blocks, 2, C): of the gradient behind the ReLU's cut, and of it times x - mean."""
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    middle = tl.load(mean + c, mask=inside, other=0.0)[None, :]
    factor = (tl.load(scale + c, mask=inside, other=0.0) * tl.load(weight + c, mask=inside, other=0.0))[None, :]
    shift = tl.load(bias + c, mask=inside, other=0.0)[None, :]
    first = tl.zeros((TILE_P, TILE_C), dtype=tl.float32)
    second = tl.zeros((TILE_P, TILE_C), dtype=tl.float32)
    for tile in range(tiles):
        p = (tl.program_id(0).to(tl.int64) * tiles + tile) * TILE_P + tl.arange(0, TILE_P)
        here = (p[:, None] < pixels) & inside[None, :]
        at = p[:, None] * channels + c[None, :]
        away = tl.load(x + at, mask=here, other=0.0).to(tl.float32) - middle
        kept = here & (away * factor + shift > 0.0)
        g = tl.where(kept, tl.load(grad + at, mask=here, other=0.0).to(tl.float32), 0.0)
        first += g
        second += g * away
    row = sums + tl.program_id(0) * 2 * channels + c
    tl.store(row, tl.sum(first, axis=0), mask=inside)
    tl.store(row + channels, tl.sum(second, axis=0), mask=inside)


@triton.jit
def _parameters(sums, scale, grad_weight, grad_bias, channels, blocks, TILE_B: tl.constexpr, TILE_C: tl.constexpr):
    """Gradients of weight and bias."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    first, second = _totals(sums, c, inside, channels, blocks, TILE_B, TILE_C)
    tl.store(grad_bias + c, first, mask=inside)
    tl.store(grad_weight + c, second * tl.load(scale + c, mask=inside, other=0.0), mask=inside)


@triton.jit
def _gradient(
    grad,
    x,
    mean,
    scale,
    weight,
    bias,
    grad_weight,
    grad_bias,
    out,
    pixels,
    channels,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """(g - mean g - x^ mean(g x^)) times weight / standard deviation, x^ being the normalised x."""
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    inside = c < channels
    p = tl.program_id(0).to(tl.int64) * TILE_P + tl.arange(0, TILE_P)
    here = (p[:, None] < pixels) & inside[None, :]
    at = p[:, None] * channels + c[None, :]
    count = pixels.to(tl.float32)
    unit = tl.load(scale + c, mask=inside, other=0.0)[None, :]
    factor = unit * tl.load(weight + c, mask=inside, other=0.0)[None, :]
    shift = tl.load(bias + c, mask=inside, other=0.0)[None, :]
    mean_g = tl.load(grad_bias + c, mask=inside, other=0.0)[None, :] / count
    mean_gx = tl.load(grad_weight + c, mask=inside, other=0.0)[None, :] / count
    away = tl.load(x + at, mask=here, other=0.0).to(tl.float32) - tl.load(mean + c, mask=inside, other=0.0)[None, :]
    kept = here & (away * factor + shift > 0.0)
    g = tl.where(kept, tl.load(grad + at, mask=here, other=0.0).to(tl.float32), 0.0)
    tl.store(out + at, ((g - mean_g - away * unit * mean_gx) * factor).to(out.dtype.element_ty), mask=here)


class NormReLU(torch.autograd.Function):
    """ReLU(BN(x)) with the statistics of the batch, of a (F, C, H, W) map that is dense and channels-last."""

    @staticmethod
    def forward(
        ctx: Any,
        x_FCHW: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels, pixels = x_FCHW.shape[1], x_FCHW.numel() // x_FCHW.shape[1]
        across, blocks, tiles = _split(pixels, channels)
        sums, mean, scale = _floats(x_FCHW, blocks, 2, channels), _floats(x_FCHW, channels), _floats(x_FCHW, channels)
        out = torch.empty_like(x_FCHW)
        _sums[(blocks, across)](x_FCHW, sums, pixels, channels, tiles, TILE_P=_BLOCK_P, TILE_C=_TILE_C)
        _statistics[(-(-channels // _SUM_C),)](
            x_FCHW,
            sums,
            mean,
            scale,
            running_mean,
            running_var,
            pixels,
            channels,
            blocks,
            momentum,
            eps,
            TILE_B=_SUM_B,
            TILE_C=_SUM_C,
        )
        _normalise[(-(-pixels // _TILE_P), across)](
            x_FCHW, mean, scale, weight, bias, out, pixels, channels, TILE_P=_TILE_P, TILE_C=_TILE_C
        )
        ctx.save_for_backward(x_FCHW, weight, bias, mean, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad_FCHW: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_FCHW, weight, bias, mean, scale = ctx.saved_tensors
        grad_FCHW = grad_FCHW.contiguous(memory_format=torch.channels_last)
        channels, pixels = x_FCHW.shape[1], x_FCHW.numel() // x_FCHW.shape[1]
        across, blocks, tiles = _split(pixels, channels)
        sums = _floats(x_FCHW, blocks, 2, channels)
        grad_weight, grad_bias, out = torch.empty_like(weight), torch.empty_like(bias), torch.empty_like(x_FCHW)
        given = (grad_FCHW, x_FCHW, mean, scale, weight, bias)
        _gradient_sums[(blocks, across)](*given, sums, pixels, channels, tiles, TILE_P=_BLOCK_P, TILE_C=_TILE_C)
        _parameters[(-(-channels // _SUM_C),)](
            sums, scale, grad_weight, grad_bias, channels, blocks, TILE_B=_SUM_B, TILE_C=_SUM_C
        )
        _gradient[(-(-pixels // _TILE_P), across)](
            *given, grad_weight, grad_bias, out, pixels, channels, TILE_P=_TILE_P, TILE_C=_TILE_C
        )
        return out, grad_weight, grad_bias, None, None, None, None


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _split(pixels: int, channels: int) -> tuple[int, int, int]:
    """Programs across channels, blocks of pixels, and tiles of a block."""
    tiles_in_all = -(-pixels // _BLOCK_P)
    tiles = -(-tiles_in_all // _MOST_BLOCKS)
    return -(-channels // _TILE_C), -(-tiles_in_all // tiles), tiles
