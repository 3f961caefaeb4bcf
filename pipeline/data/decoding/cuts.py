"""Decoded frames, cut to the pixels that a box needs, as the kernels take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from pipeline.data.decoding.filters import half_span
from pipeline.data.decoding.reference import EXACT
from pipeline.data.sampling.boxes import Box
from pipeline.errors import ReciprocalError

_PLANAR = ("yuv420p", "yuvj420p", "gray")


class ColourCut(NamedTuple):
    """A colour frame's planes, cut to what a box needs."""

    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Y, U, V, or R, G, B."""
    size: tuple[int, int] | None
    """Height and width of the whole frame where the planes are Y, U, V of 4:2:0, limited range; None for R, G, B."""


def _plane(frame: av.VideoFrame, number: int) -> np.ndarray:
    """A plane's pixels, not copied: (rows, columns) uint8."""
    plane: Any = frame.planes[number]  # offers its buffer, which its stubs do not say
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _inside(picture: np.ndarray, box: Box, below: int = 0) -> np.ndarray:
    # Checked here, because compiled loops check nothing.
    if picture.shape[0] < below + box.top + box.height or picture.shape[1] < box.left + box.width:
        raise ReciprocalError(
            f"a box of {box.width}x{box.height} at ({box.left}, {below + box.top}) is outside a stored picture of"
            f" {picture.shape[1]}x{picture.shape[0]}"
        )
    # A copy: the decoder may write its next frame into this one's memory.
    return picture[below + box.top : below + box.top + box.height, box.left : box.left + box.width].copy()


def cut_flow(frame: av.VideoFrame, box: Box, height: int) -> tuple[np.ndarray, np.ndarray]:
    """u and v of a flow picture, inside the box."""
    if not (frame.format.name in _PLANAR and frame.color_range == ColorRange.JPEG):
        frame = frame.reformat(format="gray", dst_color_range=ColorRange.JPEG)
    picture = _plane(frame, 0)
    return _inside(picture, box), _inside(picture, box, height)


def cut_colour(frame: av.VideoFrame, box: Box) -> ColourCut:
    if frame.format.name != "yuv420p" or frame.color_range == ColorRange.JPEG:
        # A source that preprocessing did not write: let swscale make 8-bit colours of it, as the reference does.
        pixels = frame.to_ndarray(
            format="rgb24", src_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG, interpolation=EXACT
        )
        red, green, blue = (_inside(pixels[..., i], box) for i in range(3))
        return ColourCut((red, green, blue), None)
    top, bottom = half_span(box.top, box.height, frame.height)
    left, right = half_span(box.left, box.width, frame.width)
    u, v = (_plane(frame, i)[top:bottom, left:right].copy() for i in (1, 2))
    return ColourCut((_inside(_plane(frame, 0), box), u, v), (frame.height, frame.width))
