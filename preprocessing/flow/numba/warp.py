"""The data term of a warp: the second picture and its gradient, sampled where the flow points to.

Cubic interpolation with a = -0.75, taps outside the picture count 0, as cv2.remap(INTER_CUBIC, BORDER_CONSTANT) does it
since OpenCV 5 (OpenCV 3 and 4 round the coordinates to 1/32 pixel). The picture and its two derivatives are
interleaved, four floats a pixel with zeros around, so that four neighbouring taps of all three are one vector of 16.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from preprocessing.flow.numba.pyramid import LANES, blocks_of, clear
from preprocessing.flow.numba.simd import (
    floor,
    fold4,
    load,
    load_fourths,
    load_one,
    maximum,
    minimum,
    splat,
    store,
    store_fourths,
)

MARGIN = 4  # of zeros around the interleaved picture: with clamped coordinates no tap leaves it
GRADIENT_FLOOR = np.float32(1.1920929e-07)  # OpenCV's: a weaker squared gradient does not move the flow


def cubic_table() -> np.ndarray:
    """The four taps' weights as polynomials of the fraction t (Keys 1981): (4, 16) float32.

    Row k holds the coefficients of t**k, those of every tap in four neighbouring lanes.
    """
    a = -0.75
    taps = [(0, a, -2 * a, a), (1, 0, -a - 3, a + 2), (0, -a, 2 * a + 3, -a - 2), (0, 0, a, -a)]
    return np.repeat(np.array(taps, np.float32).T, 4, axis=1)


@njit
def interleave(w: np.ndarray, plane: int, height: int, width: int, target: int) -> None:
    """(I, dI/dx, dI/dy, 0) of a picture of pitch 16: central differences halved, the border replicated; zeros around.

    Fills (height + 8) x (width + 8) x 4 floats and writes up to 64 past them.
    """
    blocks, target_stride = blocks_of(width), 4 * (width + 2 * MARGIN)
    stride, half, last = LANES * blocks, splat(np.float32(0.5)), width - 1
    clear(w, target, MARGIN * target_stride + 4 * MARGIN)
    for y in range(height):
        row, above, below = plane + y * stride, plane + max(y - 1, 0) * stride, plane + min(y + 1, height - 1) * stride
        out = target + (y + MARGIN) * target_stride + 4 * MARGIN
        for b in range(0, stride, LANES):
            i, across = row + b, half * (load(w, row + b + 1) - load(w, row + b - 1))
            store_fourths(w, out + 4 * b, load(w, i), across, half * (load(w, below + b) - load(w, above + b)))
        w[out + 1] = np.float32(0.5) * (w[row + min(1, last)] - w[row])
        w[out + 4 * last + 1] = np.float32(0.5) * (w[row + last] - w[row + max(last - 1, 0)])
        clear(w, out + 4 * width, 4 * LANES)  # what was written past the width
    clear(w, target + (height + MARGIN) * target_stride, MARGIN * target_stride)


@njit
def _coordinates(
    w: np.ndarray, flow: int, ramp: int, start: int, blocks: int, limit: int, whole: int, fraction: int
) -> None:
    # Whole numbers as floats: exact, for pictures are below 2**24 pixels wide.
    low, high, origin = splat(np.float32(1 - MARGIN)), splat(np.float32(limit)), splat(np.float32(start))
    for b in range(blocks):
        i = b * LANES
        position = (origin + load(w, ramp + i)) + load(w, flow + 2 * i)
        below = floor(position)
        store(w, whole + i, minimum(maximum(below, low), high))
        store(w, fraction + i, position - below)


@njit
def _weights(w: np.ndarray, table: int, fraction: int, blocks: int, out: int) -> None:
    # A row of the weights of every tap.
    for tap in range(4):
        c0, c1, c2, c3 = (
            splat(load_one(w, table + 4 * tap)),
            splat(load_one(w, table + 16 + 4 * tap)),
            splat(load_one(w, table + 32 + 4 * tap)),
            splat(load_one(w, table + 48 + 4 * tap)),
        )
        for i in range(0, blocks * LANES, LANES):
            t = load(w, fraction + i)
            store(w, out + tap * blocks * LANES + i, ((c3 * t + c2) * t + c1) * t + c0)


@njit
def linearise(
    w: np.ndarray,
    reference: int,
    interleaved: int,
    flow: int,
    data: int,
    height: int,
    width: int,
    table: int,
    ramp: int,
    scratch: int,
) -> None:
    """Fill ``data`` (pitch 64): dI1/dx, dI1/dy, rho_c and 1/|grad I1|^2 at x + u0, zero past the width.

    rho(u) = rho_c + grad I1 . u is the linearised brightness difference (Zach, Pock, Bischof 2007, equation 11).

    Args:
        reference: the first picture, pitch 16.
        flow: u0, pitch 32, offset of row 0.
        table: of ``cubic_table``.
        ramp: 0, 1, 2, ... for a row, then a row of zeros.
        scratch: twelve rows.
    """
    blocks = blocks_of(width)
    stride, picture_stride = LANES * blocks, 4 * (width + 2 * MARGIN)
    column, line, part, weights = scratch, scratch + stride, scratch + 2 * stride, scratch + 4 * stride
    taps = scratch + 8 * stride
    clear(w, taps, 4 * stride)
    one, weakest = splat(np.float32(1)), splat(GRADIENT_FLOOR)
    c0, c1, c2, c3 = load(w, table), load(w, table + LANES), load(w, table + 2 * LANES), load(w, table + 3 * LANES)
    for y in range(height):
        row = flow + y * 2 * stride
        _coordinates(w, row, ramp, 0, blocks, width + 1, column, part)
        _coordinates(w, row + LANES, ramp + stride, y, blocks, height + 1, line, part + stride)
        _weights(w, table, part + stride, blocks, weights)
        for x in range(width):
            i = (
                interleaved
                + (int(load_one(w, line + x)) + MARGIN - 1) * picture_stride
                + 4 * (int(load_one(w, column + x)) + MARGIN - 1)
            )
            v, t = weights + x, splat(load_one(w, part + x))
            lines = load(w, i) * splat(load_one(w, v))
            lines += load(w, i + picture_stride) * splat(load_one(w, v + stride))
            lines += load(w, i + 2 * picture_stride) * splat(load_one(w, v + 2 * stride))
            lines += load(w, i + 3 * picture_stride) * splat(load_one(w, v + 3 * stride))
            store(w, taps + 4 * x, fold4(lines * (((c3 * t + c2) * t + c1) * t + c0)))
        for b in range(blocks):
            i, u, out = taps + b * 4 * LANES, row + b * 2 * LANES, data + (y * blocks + b) * 4 * LANES
            value, gx, gy = load_fourths(w, i, 0), load_fourths(w, i, 1), load_fourths(w, i, 2)
            store(w, out, gx)
            store(w, out + LANES, gy)
            store(
                w,
                out + 2 * LANES,
                value - gx * load(w, u) - gy * load(w, u + LANES) - load(w, reference + y * stride + b * LANES),
            )
            store(w, out + 3 * LANES, one / maximum(gx * gx + gy * gy, weakest))
