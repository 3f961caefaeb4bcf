"""Triton kernel of the fused MRST gate: GEMM, ReLU and column sums in one pass over S and T.

The sums of each tile are stored separately and added afterwards, so results do not depend on the order in which
programs run.
"""

# Kernels are written in Triton's dialect, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _mix_relu_sum(
    a,
    b,
    aa,
    ba,
    reinforced,
    sum_a,
    sum_b,
    mask,
    positions,
    channels,
    KEEP_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
):
    """One tile of TILE_P positions and TILE_N channels of Waa a + Wba b of one clip; the first tile of channels also
    sums a and b.
    """
    tile, clip = tl.program_id(0), tl.program_id(2).to(tl.int64)
    p = tile * TILE_P + tl.arange(0, TILE_P)
    n = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    partial = (clip * tl.num_programs(0) + tile) * channels  # this tile's row of the partial sums
    a += clip * positions * channels
    b += clip * positions * channels
    mixed = tl.zeros((TILE_P, TILE_N), dtype=tl.float32)
    for start in range(0, channels, TILE_K):
        k = start + tl.arange(0, TILE_K)
        rows = p[:, None] * channels + k[None, :]
        inside = (p[:, None] < positions) & (k[None, :] < channels)
        a_tile = tl.load(a + rows, mask=inside, other=0.0)
        b_tile = tl.load(b + rows, mask=inside, other=0.0)
        # W[n, k], read as (K, N)
        matrix = n[None, :] * channels + k[:, None]
        within = (n[None, :] < channels) & (k[:, None] < channels)
        mixed = tl.dot(a_tile, tl.load(aa + matrix, mask=within, other=0.0), mixed, input_precision=PRECISION)
        mixed = tl.dot(b_tile, tl.load(ba + matrix, mask=within, other=0.0), mixed, input_precision=PRECISION)
        if tl.program_id(1) == 0:
            tl.store(sum_a + partial + k, tl.sum(a_tile.to(tl.float32), axis=0), mask=k < channels)
            tl.store(sum_b + partial + k, tl.sum(b_tile.to(tl.float32), axis=0), mask=k < channels)
    if KEEP_MASK:
        at = clip * positions * channels + p[:, None] * channels + n[None, :]
        tl.store(mask + at, (mixed > 0.0).to(tl.int8), mask=(p[:, None] < positions) & (n[None, :] < channels))
    # Positions outside the map were read as zeros and add nothing.
    tl.store(reinforced + partial + n, tl.sum(tl.maximum(mixed, 0.0), axis=0), mask=n < channels)


def reinforced_means(
    a_BPC: Tensor, b_BPC: Tensor, aa: Tensor, ba: Tensor, keep_mask: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``gate.reinforced_means``: contiguous float32, bfloat16 or float16 maps; sums in float32.

    Products of float32 maps follow ``torch.backends.cuda.matmul.allow_tf32``.
    """
    batch, positions, channels = a_BPC.shape
    size = max(16, triton.next_power_of_2(channels))
    # Tiles whose numbers lie in registers on every card: tests/unit/test_triton_kernels.py holds it.
    tile_p, tile_n, tile_k = 64, min(64, size), min(16 if a_BPC.dtype == torch.float32 else 32, size)
    tiles = -(-positions // tile_p)
    reinforced, sum_a, sum_b = (a_BPC.new_empty((batch, tiles, channels), dtype=torch.float32) for _ in range(3))
    mask = a_BPC.new_empty(a_BPC.shape if keep_mask else (1,), dtype=torch.int8)
    _mix_relu_sum[(tiles, triton.cdiv(channels, tile_n), batch)](
        a_BPC,
        b_BPC,
        aa.contiguous(),
        ba.contiguous(),
        reinforced,
        sum_a,
        sum_b,
        mask,
        positions,
        channels,
        KEEP_MASK=keep_mask,
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        TILE_P=tile_p,
        TILE_N=tile_n,
        TILE_K=tile_k,
    )
    means = [x.sum(1).div_(positions) for x in (reinforced, sum_a, sum_b)]
    return means[0], means[1], means[2], mask.view(torch.bool) if keep_mask else mask.new_empty(0, dtype=torch.bool)
