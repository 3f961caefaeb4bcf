"""Compiled loops of the FFmpeg backend: crop, resize, colour, mirror and normalise in one pass over a clip.

Planes are resized as they are stored (luma whole, chroma at half the resolution) and only then turned into colours: a
resize is linear, and so is the colour matrix, so nothing is lost but the cut to 0..255 in between, which comes after
the resize here. Arithmetic is float32; nothing is rounded on the way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Sums may be reordered and fused: a difference of some 1e-5 codes. No "nnan": NaNs must stay visible.
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}}
_inner = njit(**OPTIONS)


@_inner
def resize(src: Any, y0: Any, wy: Any, x0: Any, wx: Any, line: Any, out: Any) -> None:
    """(h, w) uint8 to (side, side) float32; ``line`` is scratch of at least w."""
    width, down, across = src.shape[1], wy.shape[1], wx.shape[1]
    for i in range(wy.shape[0]):
        row, a = src[y0[i]], wy[i, 0]
        for x in range(width):
            line[x] = a * row[x]
        for k in range(1, down):
            a = wy[i, k]
            if a != 0.0:
                row = src[y0[i] + k]
                for x in range(width):
                    line[x] += a * row[x]
        if across == 2:  # unrolled: a loop over taps takes three times as long
            for j in range(wx.shape[0]):
                p = x0[j]
                out[i, j] = wx[j, 0] * line[p] + wx[j, 1] * line[p + 1]
        elif across == 3:
            for j in range(wx.shape[0]):
                p = x0[j]
                out[i, j] = wx[j, 0] * line[p] + wx[j, 1] * line[p + 1] + wx[j, 2] * line[p + 2]
        else:
            for j in range(wx.shape[0]):
                total = np.float32(0.0)
                for k in range(across):
                    total += wx[j, k] * line[x0[j] + k]
                out[i, j] = total


@_inner
def rgb(y: Any, u: Any, v: Any, m: Any, out: Any) -> None:
    """Resized planes to (3, side, side) codes, cut to 0..255; ``m`` is (3, 4)."""
    low, high = np.float32(0.0), np.float32(255.0)
    for c in range(3):
        a, b, d, e = m[c, 0], m[c, 1], m[c, 2], m[c, 3]
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                out[c, i, j] = min(max(a * y[i, j] + b * u[i, j] + d * v[i, j] + e, low), high)


@_inner
def put(value: Any, scale: Any, offset: Any, interleaved: bool, frame: int, c: int, channels: int, out: Any) -> None:
    """(side, side) values times ``scale`` plus ``offset`` into channel ``c`` of a frame of the flat output."""
    side = value.shape[0]
    for i in range(side):
        if interleaved:
            at = (frame * side + i) * side * channels + c
            for j in range(side):
                out[at + j * channels] = value[i, j] * scale + offset
        else:
            at = ((frame * channels + c) * side + i) * side
            for j in range(side):
                out[at + j] = value[i, j] * scale + offset


@_inner
def put_colour(found: Any, change: Any, scale: Any, offset: Any, interleaved: bool, frame: int, out: Any) -> None:
    """(3, side, side) codes through the (3, 4) ``change`` matrix, if it has rows, cut to 0..255, then as ``put``."""
    low, high, side = np.float32(0.0), np.float32(255.0), found.shape[1]
    if change.shape[0] == 0 and not interleaved:
        for c in range(3):
            put(found[c], scale[c], offset[c], interleaved, frame, c, 3, out)
        return
    for i in range(side):
        for j in range(side):
            r, g, b = found[0, i, j], found[1, i, j], found[2, i, j]
            if change.shape[0]:
                r, g, b = (
                    min(max(change[0, 0] * r + change[0, 1] * g + change[0, 2] * b + change[0, 3], low), high),
                    min(max(change[1, 0] * r + change[1, 1] * g + change[1, 2] * b + change[1, 3], low), high),
                    min(max(change[2, 0] * r + change[2, 1] * g + change[2, 2] * b + change[2, 3], low), high),
                )
            if interleaved:
                at = ((frame * side + i) * side + j) * 3
                out[at] = r * scale[0] + offset[0]
                out[at + 1] = g * scale[1] + offset[1]
                out[at + 2] = b * scale[2] + offset[2]
            else:
                at = (frame * 3 * side + i) * side + j
                out[at] = r * scale[0] + offset[0]
                out[at + side * side] = g * scale[1] + offset[1]
                out[at + 2 * side * side] = b * scale[2] + offset[2]


@_inner
def frame_codes(
    y: Any,
    u: Any,
    v: Any,
    ly: Any,
    lwy: Any,
    lx: Any,
    lwx: Any,
    cy: Any,
    cwy: Any,
    cx: Any,
    cwx: Any,
    m: Any,
    line: Any,
    three: Any,
    out: Any,
) -> None:
    """One frame: luma and chroma resized by bands of their own (l.., c..: first inputs and weights down and
    across), then colours.
    """
    resize(y, ly, lwy, lx, lwx, line, three[0])
    resize(u, cy, cwy, cx, cwx, line, three[1])
    resize(v, cy, cwy, cx, cwx, line, three[2])
    rgb(three[0], three[1], three[2], m, out)


def codes(
    y: Any, u: Any, v: Any, ly: Any, lwy: Any, lx: Any, lwx: Any, cy: Any, cwy: Any, cx: Any, cwx: Any, m: Any, out: Any
) -> None:
    """Frames to RGB codes (F, 3, side, side) in 0..255, through the (3, 4) matrix ``m``."""
    side = out.shape[2]
    line, three = np.empty(y.shape[2], np.float32), np.empty((3, side, side), np.float32)
    for f in range(y.shape[0]):
        frame_codes(y[f], u[f], v[f], ly, lwy, lx, lwx, cy, cwy, cx, cwx, m, line, three, out[f])


def finish(found: Any, takes: Any, change: Any, scale: Any, offset: Any, interleaved: bool, out: Any) -> None:
    """RGB codes, those that ``takes`` names, to the network's values; ``change`` is a (3, 4) jitter, or (0, 4) for
    none.
    """
    for f in range(len(takes)):
        put_colour(found[takes[f]], change, scale, offset, interleaved, f, out)


def colour(
    y: Any,
    u: Any,
    v: Any,
    ly: Any,
    lwy: Any,
    lx: Any,
    lwx: Any,
    cy: Any,
    cwy: Any,
    cx: Any,
    cwx: Any,
    m: Any,
    takes: Any,
    change: Any,
    scale: Any,
    offset: Any,
    interleaved: bool,
    out: Any,
) -> None:
    """``codes`` and ``finish`` in one, frame by frame, so that a frame stays in the cache."""
    side = lwy.shape[0]
    line, three = np.empty(y.shape[2], np.float32), np.empty((3, side, side), np.float32)
    found = np.empty((3, side, side), np.float32)
    for f in range(len(takes)):
        if f == 0 or takes[f] != takes[f - 1]:
            t = takes[f]
            frame_codes(y[t], u[t], v[t], ly, lwy, lx, lwx, cy, cwy, cx, cwx, m, line, three, found)
        put_colour(found, change, scale, offset, interleaved, f, out)


def difference(found: Any, earlier: Any, later: Any, bound: Any, scale: Any, interleaved: bool, out: Any) -> None:
    """Differences of RGB codes, cut to +-``bound``, to the network's values."""
    side = found.shape[2]
    change = np.empty((side, side), np.float32)
    for f in range(len(earlier)):
        for c in range(3):
            before, after = found[earlier[f], c], found[later[f], c]
            for i in range(side):
                for j in range(side):
                    change[i, j] = min(max(after[i, j] - before[i, j], -bound), bound)
            put(change, scale[c], np.float32(0.0), interleaved, f, c, 3, out)


def planes(
    a: Any, b: Any, y0: Any, wy: Any, x0: Any, wx: Any, takes: Any, scale: Any, offset: Any, interleaved: bool, out: Any
) -> None:
    """Two planes of codes, resized, to two channels of the network's values."""
    side = wy.shape[0]
    line, value = np.empty(a.shape[2], np.float32), np.empty((2, side, side), np.float32)
    for f in range(len(takes)):
        if f == 0 or takes[f] != takes[f - 1]:
            resize(a[takes[f]], y0, wy, x0, wx, line, value[0])
            resize(b[takes[f]], y0, wy, x0, wx, line, value[1])
        for c in range(2):
            put(value[c], scale[c], offset[c], interleaved, f, c, 2, out)
