"""Triton kernels of the MRST gated sum, gS S + gT T, and of its gradients: each map is read once.

In torch the gradients take eight passes over the maps, most of them by kernels that read a gate for every element. Sums
of each tile are stored separately and added afterwards, so results do not depend on the order in which programs run.
"""

# Kernels are written in Triton's dialect, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_P, _TILE_C = 32, 64
_WARPS = 8  # a larger tile a thread does not fit its registers: at 64 x 64 and 4 warps the gradients spilled


@triton.jit
def _place(positions, channels, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    """Offsets of this program's tile in a (B, P, C) map and in (B, C) gates, and which of them are inside."""
    p = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    clip = tl.program_id(2).to(tl.int64)
    at = clip * positions * channels + p[:, None] * channels + c[None, :]
    return at, clip * channels + c, (p[:, None] < positions) & (c[None, :] < channels), c


@triton.jit
def _sum(s, t, gate_s, gate_t, out, positions, channels, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    at, gates, inside, c = _place(positions, channels, TILE_P, TILE_C)
    gs = tl.load(gate_s + gates, mask=c < channels, other=0.0)[None, :]
    gt = tl.load(gate_t + gates, mask=c < channels, other=0.0)[None, :]
    s_tile = tl.load(s + at, mask=inside, other=0.0).to(tl.float32)
    t_tile = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (s_tile * gs + t_tile * gt).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _sum_backward(
    grad,
    s,
    t,
    gate_s,
    gate_t,
    out_s,
    out_t,
    sum_s,
    sum_t,
    positions,
    channels,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    at, gates, inside, c = _place(positions, channels, TILE_P, TILE_C)
    gs = tl.load(gate_s + gates, mask=c < channels, other=0.0)[None, :]
    gt = tl.load(gate_t + gates, mask=c < channels, other=0.0)[None, :]
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    s_tile = tl.load(s + at, mask=inside, other=0.0).to(tl.float32)
    t_tile = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_s + at, (g * gs).to(out_s.dtype.element_ty), mask=inside)
    tl.store(out_t + at, (g * gt).to(out_t.dtype.element_ty), mask=inside)
    partial = (tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * channels + c
    tl.store(sum_s + partial, tl.sum(g * s_tile, axis=0), mask=c < channels)
    tl.store(sum_t + partial, tl.sum(g * t_tile, axis=0), mask=c < channels)


def gated_sum(s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor) -> Tensor:
    """See ``gate.gated_sum``: contiguous float32, bfloat16 or float16 maps, float32 gates; computed in float32."""
    batch, positions, channels = s_BPC.shape
    out = torch.empty_like(s_BPC)
    _sum[_grid(batch, positions, channels)](
        s_BPC,
        t_BPC,
        gate_s.contiguous(),
        gate_t.contiguous(),
        out,
        positions,
        channels,
        TILE_P=_TILE_P,
        TILE_C=_TILE_C,
        num_warps=_WARPS,
    )
    return out


def gated_sum_backward(
    grad_BPC: Tensor, s_BPC: Tensor, t_BPC: Tensor, gate_s: Tensor, gate_t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of S, T, gS, gT."""
    batch, positions, channels = s_BPC.shape
    grid = _grid(batch, positions, channels)
    out_s, out_t = torch.empty_like(s_BPC), torch.empty_like(t_BPC)
    sums = [s_BPC.new_empty((batch, grid[0], channels), dtype=torch.float32) for _ in range(2)]
    _sum_backward[grid](
        grad_BPC,
        s_BPC,
        t_BPC,
        gate_s.contiguous(),
        gate_t.contiguous(),
        out_s,
        out_t,
        *sums,
        positions,
        channels,
        TILE_P=_TILE_P,
        TILE_C=_TILE_C,
        num_warps=_WARPS,
    )
    return out_s, out_t, sums[0].sum(1), sums[1].sum(1)


def _grid(batch: int, positions: int, channels: int) -> tuple[int, int, int]:
    return -(-positions // _TILE_P), -(-channels // _TILE_C), batch
