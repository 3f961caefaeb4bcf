"""Triton kernels of the TV-L1 iteration: one launch an inner iteration, stop flags that live on the device.

Every kernel has a grid of (tiles of a picture, pairs of frames). A program sees one tile of one pair, and no number it
computes depends on the number of pairs: a pair's flow has the same bits in every batch.

**Stop flags.** ``sums`` holds, per pair, one number per tile: that tile's share of the squared change of flow. The next
kernel
adds them itself, in a fixed order, and decides: above the limit, iterate; at most the limit, the pair has just stopped:
copy its state, so that both buffers hold it; negative, it had stopped before: return at once. Each program then leaves
its answer for the next kernel in the other buffer of ``sums``: its share, or -1. No
atomics, no kernel just for the flags, and nothing is read by one program while another writes it.

**Traffic.** ``iterate_kernel`` reads 40 bytes a pixel (flow 8, dual 16, data 16) and writes 24. It needs the new flow
at three places, (x, y), (x + 1, y) and (x, y + 1), and computes it three times rather than store it between two
kernels, which would make 88 bytes. Neighbours come from the level-1 cache. Fields used together are stored together,
(H, W, 2) and (H, W, 4), so that a pixel's fields come in one access of 8 or 16 bytes: instructions, not bytes, are what
such a kernel runs out of first.

**Bits.** Square roots and divisions are rounded correctly, multiply-adds are fused where written and, launched with
``enable_fp_fusion=False``, nowhere else; integers are not specialised on. So the compiler's freedom does not show in
the result.

**Not built: several iterations on chip.** A tile with a halo of k pixels could take k iterations between loads, 13
bytes a pixel-iteration at 64x64 and k = 8. The test of every iteration then needs the sums of all k, and where a pair
stops at j < k a second launch from the old buffers, which double buffering keeps, with j iterations. Triton moves
values between neighbours inside a tile through shared memory only (``tl.gather``), eight times an iteration.
"""

# A kernel is Triton's dialect in Python's clothes, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

_INTEGERS = ["height", "width", "tiles_x", "tiles"]


@triton.jit
def pixels_of(tile, tiles_x, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Rows (TILE_H, 1) and columns (1, TILE_W) of a tile, in pixels."""
    y = (tile // tiles_x) * TILE_H + tl.arange(0, TILE_H)[:, None]
    x = (tile % tiles_x) * TILE_W + tl.arange(0, TILE_W)[None, :]
    return y, x


@triton.jit
def squared_change(sums, pair, tiles, SUMS: tl.constexpr):
    """A pair's change in the last iteration, added over its tiles; infinite before the first, negative after it
    stopped.
    """
    tile = tl.arange(0, SUMS)
    return tl.sum(tl.load(sums + pair * tiles + tile, mask=tile < tiles, other=0.0), axis=0)


@triton.jit
def load_2(pointer, at, mask, STRIDE: tl.constexpr = 2):
    """Two components of (H, W, STRIDE) at the pixels ``at``, in one 8-byte access a pixel; 0 where masked."""
    both = tl.load(
        pointer + (at * STRIDE)[:, :, None] + tl.arange(0, 2)[None, None, :], mask=mask[:, :, None], other=0.0
    )
    return tl.split(both)


@triton.jit
def load_4(pointer, at, mask):
    """Components of (H, W, 4) at the pixels ``at``, in one 16-byte access a pixel; 0 where masked."""
    all_four = tl.load(
        pointer + (at * 4)[:, :, None] + tl.arange(0, 4)[None, None, :], mask=mask[:, :, None], other=0.0
    )
    even, odd = tl.split(tl.reshape(all_four, [all_four.shape[0], all_four.shape[1], 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def store_2(pointer, at, a, b, mask):
    """Inverse of ``load_2``."""
    tl.store(pointer + (at * 2)[:, :, None] + tl.arange(0, 2)[None, None, :], tl.join(a, b), mask=mask[:, :, None])


@triton.jit
def store_4(pointer, at, a, b, c, d, mask):
    """Inverse of ``load_4``."""
    all_four = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [a.shape[0], a.shape[1], 4])
    tl.store(pointer + (at * 4)[:, :, None] + tl.arange(0, 4)[None, None, :], all_four, mask=mask[:, :, None])


@triton.jit
def primal_step(flow, data, at, mask, divergence_1, divergence_2, bound, theta):
    """Flow before and after v = u - clamp(rho / g) grad I, u = v + theta div p (Zach et al. 2007, equations 10 and
    12).
    """
    u1, u2 = load_2(flow, at, mask)
    gx, gy, rho_c, inverse = load_4(data, at, mask)
    rho = tl.fma(gy, u2, tl.fma(gx, u1, rho_c))
    step = -tl.minimum(tl.maximum(rho * inverse, -bound), bound)
    return u1, u2, tl.fma(divergence_1, theta, tl.fma(step, gx, u1)), tl.fma(divergence_2, theta, tl.fma(step, gy, u2))


@triton.jit
def dual_step(p_x, p_y, u, u_right, u_below, right, below, slope):
    """p <- (p + slope grad u) / (1 + slope |grad u|), with forward differences that are 0 in the last column and
    row.
    """
    u_x = tl.where(right, u_right - u, 0.0)
    u_y = tl.where(below, u_below - u, 0.0)
    shrink = tl.div_rn(1.0, tl.fma(tl.sqrt_rn(tl.fma(u_x, u_x, u_y * u_y)), slope, 1.0))
    return tl.fma(u_x, slope, p_x) * shrink, tl.fma(u_y, slope, p_y) * shrink


@triton.jit(do_not_specialize=_INTEGERS)
def iterate_kernel(
    flow_in,
    dual_in,
    data,
    sums_in,
    flow_out,
    dual_out,
    sums_out,
    height,
    width,
    tiles_x,
    tiles,
    limit,
    bound,
    theta,
    slope,
    SUMS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """One inner iteration: (N, H, W, 2) flow and (N, H, W, 4) dual (p11, p21, p12, p22) from ``_in`` to ``_out``.

    Args:
        data: (N, H, W, 4): warped gradient x and y, rho_c, 1 / g.
        sums_in, sums_out: (N, tiles).
        limit: eps^2 H W. bound: lambda theta. slope: tau / theta.
        SUMS: a power of two, at least ``tiles``.
    """
    tile = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    first = pair * height * width
    flow_in, flow_out, data = flow_in + first * 2, flow_out + first * 2, data + first * 4
    dual_in, dual_out = dual_in + first * 4, dual_out + first * 4
    change = squared_change(sums_in, pair, tiles, SUMS)
    share = sums_out + pair * tiles + tile
    y, x = pixels_of(tile, tiles_x, TILE_H, TILE_W)
    at = y * width + x
    here = (y < height) & (x < width)
    if change > limit:
        right, below = here & (x + 1 < width), here & (y + 1 < height)
        p11, p21, p12, p22 = load_4(dual_in, at, here)
        p11_left, p21_left = load_2(dual_in, at - 1, here & (x > 0), 4)
        p12_up, p22_up = load_2(dual_in + 2, at - width, here & (y > 0), 4)
        old1, old2, u1, u2 = primal_step(
            flow_in, data, at, here, (p11 - p11_left) + (p12 - p12_up), (p21 - p21_left) + (p22 - p22_up), bound, theta
        )
        q11, q21, q12, q22 = load_4(dual_in, at + 1, right)
        q12_up, q22_up = load_2(dual_in + 2, at + 1 - width, right & (y > 0), 4)
        _r1, _r2, u1_right, u2_right = primal_step(
            flow_in, data, at + 1, right, (q11 - p11) + (q12 - q12_up), (q21 - p21) + (q22 - q22_up), bound, theta
        )
        q11, q21, q12, q22 = load_4(dual_in, at + width, below)
        q11_left, q21_left = load_2(dual_in, at + width - 1, below & (x > 0), 4)
        _b1, _b2, u1_below, u2_below = primal_step(
            flow_in,
            data,
            at + width,
            below,
            (q11 - q11_left) + (q12 - p12),
            (q21 - q21_left) + (q22 - p22),
            bound,
            theta,
        )
        p11, p12 = dual_step(p11, p12, u1, u1_right, u1_below, right, below, slope)
        p21, p22 = dual_step(p21, p22, u2, u2_right, u2_below, right, below, slope)
        store_2(flow_out, at, u1, u2, here)
        store_4(dual_out, at, p11, p21, p12, p22, here)
        d1, d2 = u1 - old1, u2 - old2
        tl.store(share, tl.sum(tl.sum(tl.where(here, tl.fma(d1, d1, d2 * d2), 0.0), axis=1), axis=0))
    else:
        if change >= 0.0:
            u1, u2 = load_2(flow_in, at, here)
            store_2(flow_out, at, u1, u2, here)
            a, b, c, d = load_4(dual_in, at, here)
            store_4(dual_out, at, a, b, c, d, here)
        tl.store(share, -1.0)


@triton.jit(do_not_specialize=["tiles"], do_not_specialize_on_alignment=["sums", "going"])
def settle_kernel(sums, going, tiles, limit, SUMS: tl.constexpr):
    """After an outer iteration: ``going`` (N,) int32 is 1 where a pair has not stopped, for the host to read.

    The verdict is also written back as sums of 0 or infinity (a stopped pair's -1 stays), so that the median and the
    next iteration repeat it whatever order they add in.
    """
    pair = tl.program_id(0).to(tl.int64)
    change = squared_change(sums, pair, tiles, SUMS)
    tl.store(going + pair, (change > limit).to(tl.int32))
    if change >= 0.0:
        tile = tl.arange(0, SUMS)
        tl.store(
            sums + pair * tiles + tile,
            tl.where(change > limit, float("inf"), 0.0) + tl.zeros([SUMS], tl.float32),
            mask=tile < tiles,
        )
