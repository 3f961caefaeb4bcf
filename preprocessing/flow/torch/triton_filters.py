"""Triton kernels around the TV-L1 iteration: median, warp with the data term, image gradient, bilinear resize.

Like the iteration's, every program works on one tile of one picture and rounds as IEEE says, so results do not depend
on the batch.
"""

# A kernel is Triton's dialect in Python's clothes, which a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from preprocessing.flow.torch.geometry import CUBIC_A, EPS_GRADIENT, median_network
from preprocessing.flow.torch.triton_kernels import load_2, pixels_of, squared_change, store_2, store_4

_A = tl.constexpr(CUBIC_A)
_EPS_GRADIENT = tl.constexpr(EPS_GRADIENT)
_NETWORK = tl.constexpr(median_network()[0])
_COMPARATORS = tl.constexpr(len(median_network()[0]))
_MEDIAN = tl.constexpr(median_network()[1])


@triton.jit
def _exchange(v, LOW: tl.constexpr, HIGH: tl.constexpr):
    """The tuple with the smaller of places LOW and HIGH, LOW < HIGH, at LOW, and the larger at HIGH."""
    low, high = tl.minimum(v[LOW], v[HIGH]), tl.maximum(v[LOW], v[HIGH])
    return v[:LOW] + (low,) + v[LOW + 1 : HIGH] + (high,) + v[HIGH + 1 :]  # noqa: RUF005 (no stars in Triton)


@triton.jit
def _median_of_25(v):
    """Median of a tuple of 25 tensors by the network of ``median_network``."""
    for k in tl.static_range(_COMPARATORS):
        v = _exchange(v, _NETWORK[k][0], _NETWORK[k][1])
    return v[_MEDIAN]


@triton.jit(do_not_specialize=["height", "width", "tiles_x", "tiles"])
def median_kernel(
    flow_in,
    sums,
    flow_out,
    height,
    width,
    tiles_x,
    tiles,
    limit,
    SUMS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """5x5 median of both components of (N, H, W, 2), border replicated; a pair that has just stopped is copied, an
    older one left.
    """
    pair = tl.program_id(1).to(tl.int64)
    change = squared_change(sums, pair, tiles, SUMS)
    y, x = pixels_of(tl.program_id(0), tiles_x, TILE_H, TILE_W)
    at = y * width + x
    here = (y < height) & (x < width)
    first = pair * height * width * 2
    flow_in, flow_out = flow_in + first, flow_out + first
    if change > limit:
        v1, v2 = (), ()
        for k in tl.static_range(25):
            row = tl.minimum(tl.maximum(y + (k // 5 - 2), 0), height - 1)
            column = tl.minimum(tl.maximum(x + (k % 5 - 2), 0), width - 1)
            u1, u2 = load_2(flow_in, row * width + column, here)
            v1, v2 = v1 + (u1,), v2 + (u2,)  # noqa: RUF005
        store_2(flow_out, at, _median_of_25(v1), _median_of_25(v2), here)
    elif change >= 0.0:
        u1, u2 = load_2(flow_in, at, here)
        store_2(flow_out, at, u1, u2, here)


@triton.jit
def _cubic_weights(t):
    """Weights of the taps at -1, 0, 1, 2 for a position 0 <= t < 1 (Keys 1981, equation 4, with a = -0.75)."""
    far, near = 1.0 + t, 1.0 - t
    w0 = ((_A * far - 5 * _A) * far + 8 * _A) * far - 4 * _A
    w1 = ((_A + 2) * t - (_A + 3)) * t * t + 1.0
    w2 = ((_A + 2) * near - (_A + 3)) * near * near + 1.0
    return w0, w1, w2, ((1.0 - w0) - w1) - w2


@triton.jit(do_not_specialize=["height", "width", "tiles_x", "tiles"])
def linearise_kernel(
    first,
    second,
    gradient,
    flow,
    used,
    data,
    sums,
    other_sums,
    height,
    width,
    tiles_x,
    tiles,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Start of a warp: ``second`` (N, H, W) and its ``gradient`` (N, H, W, 2) at x + flow, and the data term around
    ``flow``.

    Cubic interpolation; taps outside the picture are zero. ``data`` (N, H, W, 4) becomes gx, gy, rho_c, 1 / max(g,
    1.19e-7). Pairs with ``used`` (N,) int32 of 0 are empty places of the chunk: they are marked as stopped, the others
    as not yet begun.
    """
    tile = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    share = pair * tiles + tile
    if tl.load(used + pair) == 0:
        tl.store(sums + share, -1.0)
        tl.store(other_sums + share, -1.0)
    else:
        tl.store(sums + share, float("inf"))
        tl.store(other_sums + share, float("inf"))
        y, x = pixels_of(tile, tiles_x, TILE_H, TILE_W)
        at = y * width + x
        here = (y < height) & (x < width)
        plane = pair * height * width
        second, gradient = second + plane, gradient + plane * 2
        u1, u2 = load_2(flow + plane * 2, at, here)
        # beyond these bounds no tap is inside
        at_x = tl.minimum(tl.maximum(x + u1, -8.0), width + 8.0)
        at_y = tl.minimum(tl.maximum(y + u2, -8.0), height + 8.0)
        floor_x, floor_y = tl.floor(at_x), tl.floor(at_y)
        wx, wy = _cubic_weights(at_x - floor_x), _cubic_weights(at_y - floor_y)
        column, row = floor_x.to(tl.int32) - 1, floor_y.to(tl.int32) - 1
        zero = tl.zeros([TILE_H, TILE_W], tl.float32)
        warped, gx, gy = zero, zero, zero
        for j in tl.static_range(4):
            line, line_x, line_y = zero, zero, zero
            for i in tl.static_range(4):
                inside = here & (column + i >= 0) & (column + i < width) & (row + j >= 0) & (row + j < height)
                tap = (row + j) * width + column + i
                tap_x, tap_y = load_2(gradient, tap, inside)
                line += tl.load(second + tap, mask=inside, other=0.0) * wx[i]
                line_x += tap_x * wx[i]
                line_y += tap_y * wx[i]
            warped += line * wy[j]
            gx += line_x * wy[j]
            gy += line_y * wy[j]
        rho_c = ((warped - gx * u1) - gy * u2) - tl.load(first + plane + at, mask=here, other=0.0)
        inverse = tl.div_rn(1.0, tl.maximum(gx * gx + gy * gy, _EPS_GRADIENT))
        store_4(data + plane * 4, at, gx, gy, rho_c, inverse, here)


@triton.jit(do_not_specialize=["height", "width", "tiles_x"])
def gradient_kernel(frames, gradient, height, width, tiles_x, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """(N, H, W) to (N, H, W, 2): half the difference of the neighbours in x and y, border replicated."""
    plane = tl.program_id(1).to(tl.int64) * height * width
    y, x = pixels_of(tl.program_id(0), tiles_x, TILE_H, TILE_W)
    here = (y < height) & (x < width)
    frames += plane
    right = tl.load(frames + y * width + tl.minimum(x + 1, width - 1), mask=here, other=0.0)
    left = tl.load(frames + y * width + tl.maximum(x - 1, 0), mask=here, other=0.0)
    below = tl.load(frames + tl.minimum(y + 1, height - 1) * width + x, mask=here, other=0.0)
    above = tl.load(frames + tl.maximum(y - 1, 0) * width + x, mask=here, other=0.0)
    store_2(gradient + plane * 2, y * width + x, 0.5 * (right - left), 0.5 * (below - above), here)


@triton.jit(do_not_specialize=["source_height", "source_width", "height", "width", "tiles_x"])
def resize_kernel(
    source,
    target,
    left,
    right,
    weight_x,
    top,
    bottom,
    weight_y,
    source_height,
    source_width,
    height,
    width,
    tiles_x,
    gain,
    CHANNELS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Bilinear resize of (N, source_height, source_width, CHANNELS) to (N, height, width, CHANNELS) by
    ``bilinear_taps``, times ``gain``.
    """
    picture = tl.program_id(1).to(tl.int64) * CHANNELS
    y, x = pixels_of(tl.program_id(0), tiles_x, TILE_H, TILE_W)
    in_y, in_x = y < height, x < width
    here = in_y & in_x
    source, target = source + picture * source_height * source_width, target + picture * height * width
    x0, x1 = tl.load(left + x, mask=in_x, other=0) * CHANNELS, tl.load(right + x, mask=in_x, other=0) * CHANNELS
    stride = source_width * CHANNELS
    y0, y1 = tl.load(top + y, mask=in_y, other=0) * stride, tl.load(bottom + y, mask=in_y, other=0) * stride
    wx, wy = tl.load(weight_x + x, mask=in_x, other=0.0), tl.load(weight_y + y, mask=in_y, other=0.0)
    for c in tl.static_range(CHANNELS):
        a, b = tl.load(source + y0 + x0 + c, mask=here, other=0.0), tl.load(source + y0 + x1 + c, mask=here, other=0.0)
        upper = a * (1.0 - wx) + b * wx
        a, b = tl.load(source + y1 + x0 + c, mask=here, other=0.0), tl.load(source + y1 + x1 + c, mask=here, other=0.0)
        lower = a * (1.0 - wx) + b * wx
        tl.store(target + (y * width + x) * CHANNELS + c, (upper * (1.0 - wy) + lower * wy) * gain, mask=here)
