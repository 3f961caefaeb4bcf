"""Triton kernels that end a level's warps: how far a warp moved each pair's flow, and which pairs take another.

The order of additions is fixed by the tiles, as in ``triton_kernels``: a pair's verdict is the same in every batch.
"""

# A kernel is Triton's dialect in Python's clothes, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from preprocessing.flow.torch.triton_kernels import load_2, pixels_of, squared_change


@triton.jit(do_not_specialize=["height", "width", "tiles_x", "tiles"])
def move_kernel(start, flow, used, sums, height, width, tiles_x, tiles, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """``sums`` (N, tiles): each tile's share of the squared distance from ``start`` to ``flow``, both (N, H, W, 2), of
    the pairs in use.
    """
    tile = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    if tl.load(used + pair) != 0:
        y, x = pixels_of(tile, tiles_x, TILE_H, TILE_W)
        at = y * width + x
        here = (y < height) & (x < width)
        first = pair * height * width * 2
        u1, u2 = load_2(flow + first, at, here)
        before1, before2 = load_2(start + first, at, here)
        d1, d2 = u1 - before1, u2 - before2
        tl.store(sums + pair * tiles + tile, tl.sum(tl.sum(d1 * d1 + d2 * d2, axis=1), axis=0))


@triton.jit(do_not_specialize=["tiles"], do_not_specialize_on_alignment=["sums", "used"])
def rest_kernel(sums, used, tiles, limit, SUMS: tl.constexpr):
    """``used`` (N,) int32 becomes 0 where the shares in ``sums`` add up to at most ``limit``."""
    pair = tl.program_id(0).to(tl.int64)
    if tl.load(used + pair) != 0:
        tl.store(used + pair, (squared_change(sums, pair, tiles, SUMS) > limit).to(tl.int32))
