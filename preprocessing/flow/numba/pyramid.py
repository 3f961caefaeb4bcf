"""Pictures in a numba workspace, and the bilinear resize of OpenCV's pyramid.

A workspace is one flat float32 array; a picture in it is an offset. Rows are cut into blocks of 16 pixels, and the
blocks of several components of one picture alternate (``pitch`` floats from block to block), so that a kernel follows
one pointer: a plain picture has pitch 16, the flow (u, v) 32, the dual variable 64. Columns past the width, up to the
next multiple of 16, are zero.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from preprocessing.flow.numba.simd import LANES, load, load_one, splat, store


@njit
def blocks_of(width: int) -> int:
    """Blocks of 16 pixels in a row."""
    return (width + LANES - 1) // LANES


@njit
def clear(w: np.ndarray, start: int, count: int) -> None:
    """Zeros (``count`` a multiple of 16)."""
    zero = splat(np.float32(0))
    for i in range(start, start + count, LANES):
        store(w, i, zero)


@njit
def place(frame: np.ndarray, w: np.ndarray, target: int) -> None:
    """A uint8 picture (H, W) as float32, 0..255, with pitch 16."""
    height, width = frame.shape
    stride = LANES * blocks_of(width)
    for y in range(height):
        row = target + y * stride
        for x in range(width):
            w[row + x] = frame[y, x]
        for x in range(width, stride):
            w[row + x] = 0.0


@njit
def _tap(position: int, size: int, scale: float) -> tuple[int, np.float32]:
    """Left neighbour of a target pixel, and the weight of the right one: centres on centres, clamped at both ends."""
    at = np.float32((position + 0.5) * scale - 0.5)
    left = math.floor(at)
    if left < 0:
        return 0, np.float32(0.0)
    if left >= size - 1:
        return size - 1, np.float32(0.0)
    return left, np.float32(at - np.float32(left))


@njit
def _stretch(w: np.ndarray, row: int, target: int, width: int, taps: int, stride: int) -> None:
    # taps: rows of the two neighbours' offsets in a row, as floats (exact), and of the right one's weights
    one = np.float32(1.0)
    for i in range(taps, taps + width):
        a, b, weight = (
            load_one(w, row + int(load_one(w, i))),
            load_one(w, row + int(load_one(w, i + stride))),
            load_one(w, i + 2 * stride),
        )
        w[target + i - taps] = a * (one - weight) + b * weight


@njit
def resize(
    w: np.ndarray,
    source: int,
    source_height: int,
    source_width: int,
    source_pitch: int,
    target: int,
    height: int,
    width: int,
    target_pitch: int,
    scale_y: float,
    scale_x: float,
    gain: float,
    scratch: int,
) -> None:
    """Bilinear resize times ``gain``, rows first, as cv2.resize does it on float32.

    Args:
        source, target: offsets of pixel (0, 0).
        scale_y, scale_x: source pixels per target pixel.
        scratch: five rows of the target's length.
    """
    blocks = blocks_of(width)
    stride, source_stride = LANES * blocks, source_pitch * blocks_of(source_width)
    taps = scratch + 2 * stride
    clear(w, scratch, 2 * stride)
    for x in range(width):
        left, weight = _tap(x, source_width, scale_x)
        right = min(left + 1, source_width - 1)
        w[taps + x] = left // LANES * source_pitch + left % LANES
        w[taps + stride + x] = right // LANES * source_pitch + right % LANES
        w[taps + 2 * stride + x] = weight
    upper, lower, held = scratch, scratch + stride, -2  # the source rows held and held + 1, at the target's width
    for y in range(height):
        top, weight_y = _tap(y, source_height, scale_y)
        if top == held + 1:
            upper, lower = lower, upper
        elif top != held:
            _stretch(w, source + top * source_stride, upper, width, taps, stride)
        if top != held:
            _stretch(w, source + min(top + 1, source_height - 1) * source_stride, lower, width, taps, stride)
            held = top
        weight_top, weight_bottom, factor = splat(np.float32(1.0) - weight_y), splat(weight_y), splat(np.float32(gain))
        for b in range(blocks):
            mixed = load(w, upper + b * LANES) * weight_top + load(w, lower + b * LANES) * weight_bottom
            store(w, target + (y * blocks + b) * target_pitch, mixed * factor)
