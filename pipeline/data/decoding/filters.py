"""Weights of a crop's resize, as short bands: output i reads inputs first[i] .. first[i] + taps - 1.

The filter is a triangle, widened when shrinking and cut off at the crop's rim: Pillow's and torch's antialiased
bilinear.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np


@dataclasses.dataclass(frozen=True)
class Band:
    """A resize along one axis."""

    first: np.ndarray
    """(outputs,) int32 first input of each output."""
    weights: np.ndarray
    """(outputs, taps) float32."""


@lru_cache(1024)
def triangle(length: int, outputs: int) -> Band:
    """``length`` pixels to ``outputs``; every row of weights sums to 1."""
    scale = length / outputs
    reach = max(scale, 1.0)
    centres = (np.arange(outputs) + 0.5) * scale
    taps = min(length, int(np.ceil(2 * reach)) + 1)
    first = np.clip(np.floor(centres - reach + 0.5).astype(np.int64), 0, length - taps)
    distance = np.abs(first[:, None] + np.arange(taps) + 0.5 - centres[:, None]) / reach
    return _trimmed(first, np.maximum(0, 1 - distance), length)


def half_span(start: int, length: int, full: int) -> tuple[int, int]:
    """The samples of a plane of half the resolution that pixels ``start .. start+length-1`` of ``full`` are
    interpolated from: first, end.
    """
    return max(0, (start - 1) // 2), min((full + 1) // 2, (start + length - 2) // 2 + 2)


@lru_cache(1024)
def halved(length: int, outputs: int, start: int, full: int) -> Band:
    """The same resize from a plane of half the resolution (4:2:0 chroma, samples amid four pixels).

    It is the product of interpolating the plane up to pixels ``start .. start+length-1`` of ``full``, linearly as
    swscale does, and ``triangle``; inputs are counted from the start of ``half_span``.
    """
    band, (begin, end) = triangle(length, outputs), half_span(start, length, full)
    position = (np.arange(start, start + length) + 0.5) / 2 - 0.5
    lower = np.floor(position).astype(np.int64)
    upper_share = position - lower
    pair = np.clip(np.stack([lower, lower + 1]), begin, end - 1) - begin  # (2, length)
    pixels = np.minimum(band.first[:, None] + np.arange(band.weights.shape[1]), length - 1)  # (outputs, taps)
    first = pair[0, band.first]
    weights = np.zeros((outputs, band.weights.shape[1] // 2 + 3))
    rows = np.arange(outputs)[:, None]
    for side, share in ((0, 1 - upper_share), (1, upper_share)):
        np.add.at(weights, (rows, pair[side, pixels] - first[:, None]), band.weights * share[pixels])
    return _trimmed(first, weights, end - begin)


def mirrored(band: Band) -> Band:
    """The band whose outputs come in reverse order."""
    return Band(np.ascontiguousarray(band.first[::-1]), np.ascontiguousarray(band.weights[::-1]))


def _trimmed(first: np.ndarray, weights: np.ndarray, length: int) -> Band:
    """Normalise, drop columns that are empty, and move bands that reach beyond the end inwards."""
    weights = weights / weights.sum(1, keepdims=True)
    leading = (weights > 0).argmax(1)
    rows = np.arange(len(weights))[:, None]
    columns = leading[:, None] + np.arange(weights.shape[1])
    shifted = np.where(columns < weights.shape[1], weights[rows, np.minimum(columns, weights.shape[1] - 1)], 0)
    taps = int(((shifted > 0) * np.arange(1, shifted.shape[1] + 1)).max())
    shifted, first = shifted[:, :taps], first + leading
    over = np.maximum(first + taps - length, 0)
    if over.any():
        moved = np.arange(taps) - over[:, None]
        shifted, first = np.where(moved >= 0, shifted[rows, np.maximum(moved, 0)], 0), first - over
    return Band(first.astype(np.int32), np.ascontiguousarray(shifted, np.float32))
