"""Median of 5x5 pixels by minima and maxima only, 16 pixels at a time.

Every column of five is sorted once and shared by the five windows it is part of. From five sorted columns the median
follows by a fixed network of exchanges, found by computer search and proved by the 0-1 principle: a network is right
for all numbers if it is right for zeros and ones, and five sorted columns of those have 6**5 states, all of which a
test tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numba.core import types

from preprocessing.flow.numba.pyramid import LANES, blocks_of
from preprocessing.flow.numba.simd import emit_load, emit_maximum, emit_minimum, f32x16, intrinsic, store

SORT_5 = ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3))
"""Exchanges that sort five values: the smaller one to the first place of each pair."""

NETWORK: tuple[tuple[int, int], ...] = (
    (15, 18),
    (15, 16),
    (2, 1),
    (10, 13),
    (17, 19),
    (5, 8),
    (10, 12),
    (7, 9),
    (5, 7),
    (19, 18),
    (6, 7),
    (11, 14),
    (12, 14),
    (8, 9),
    (1, 3),
    (0, 3),
    (15, 17),
    (12, 13),
    (20, 23),
    (24, 22),
    (7, 8),
    (20, 24),
    (13, 4),
    (10, 11),
    (21, 4),
    (12, 3),
    (19, 14),
    (16, 9),
    (22, 8),
    (17, 19),
    (17, 16),
    (3, 11),
    (21, 23),
    (1, 6),
    (21, 20),
    (22, 19),
    (3, 12),
    (7, 2),
    (11, 24),
    (16, 22),
    (21, 16),
    (13, 15),
    (17, 0),
    (21, 12),
    (20, 11),
    (20, 15),
    (6, 2),
    (15, 16),
    (20, 12),
    (0, 2),
    (2, 15),
    (2, 12),
    (12, 15),
)
"""Exchanges after which the median of five sorted columns is at ``MEDIAN_AT``; place 5 r + c is rank r of column c.
Results that nothing reads are dropped by the compiler."""
MEDIAN_AT = 12


def exchanged(builder: Any, values: Sequence[Any], pairs: Sequence[tuple[int, int]]) -> list[Any]:
    """IR of the values after the exchanges."""
    values = list(values)
    for i, j in pairs:
        values[i], values[j] = emit_minimum(builder, values[i], values[j]), emit_maximum(builder, values[i], values[j])
    return values


@intrinsic
def _sorted_5(typingctx, w, a, b, c, d, e):
    """Vectors from five indices on, sorted lane by lane."""

    def emit(context, builder, sig, args):
        values = [emit_load(context, builder, sig.args[0], args[0], i) for i in args[1:]]
        return context.make_tuple(builder, sig.return_type, exchanged(builder, values, SORT_5))

    return types.UniTuple(f32x16, 5)(w, *[types.intp] * 5), emit


@intrinsic
def _median_of_columns(typingctx, w, index, stride):
    """Medians of 16 windows: rank r of a window's first column is at index + r * stride."""

    def emit(context, builder, sig, args):
        row, values = args[1], []
        for _ in range(5):
            places = [builder.add(row, row.type(c)) for c in range(5)]
            values += [emit_load(context, builder, sig.args[0], args[0], i) for i in places]
            row = builder.add(row, args[2])
        return exchanged(builder, values, NETWORK)[MEDIAN_AT]

    return f32x16(w, types.intp, types.intp), emit


@njit
def median_5x5(w: np.ndarray, source: int, target: int, pitch: int, height: int, width: int, scratch: int) -> None:
    """Median filter of one component, the border replicated, as cv2.medianBlur(ksize=5).

    Args:
        source, target: offsets of row 0 in two pictures of the same pitch.
        scratch: five rows, each 32 floats longer than the picture's.
    """
    blocks = blocks_of(width)
    stride, length = blocks * pitch, blocks * LANES + 2 * LANES
    first = scratch + LANES
    for y in range(height):
        a, b = source + max(y - 2, 0) * stride, source + max(y - 1, 0) * stride
        c, d, e = (
            source + y * stride,
            source + min(y + 1, height - 1) * stride,
            source + min(y + 2, height - 1) * stride,
        )
        for k in range(blocks):
            i, at = k * pitch, first + k * LANES
            s0, s1, s2, s3, s4 = _sorted_5(w, a + i, b + i, c + i, d + i, e + i)
            store(w, at, s0)
            store(w, at + length, s1)
            store(w, at + 2 * length, s2)
            store(w, at + 3 * length, s3)
            store(w, at + 4 * length, s4)
        for r in range(5):
            row = first + r * length
            w[row - 2] = w[row - 1] = w[row]
            w[row + width] = w[row + width + 1] = w[row + width - 1]
        for k in range(blocks):
            store(w, target + y * stride + k * pitch, _median_of_columns(w, first + k * LANES - 2, length))
        for x in range(width, blocks * LANES):
            w[target + y * stride + x // LANES * pitch + x % LANES] = 0.0
