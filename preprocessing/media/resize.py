"""A decoded picture to a small upright RGB frame."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

from pipeline.errors import RejectedSource
from preprocessing.media.upright import Orientation

MAX_ASPECT = 10.0
# FFmpeg's fast conversion repeats chroma samples and rounds down: up to 40 levels off at coloured edges.
# Bit-exact: the same picture on every machine, whatever vector instructions it has.
_EXACT = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_ENLARGE = Interpolation.BILINEAR | _EXACT
_SHRINK = Interpolation.AREA | Interpolation.FULL_CHR_H_INP | _EXACT


def stored_size(width: float | Fraction, height: float | Fraction, short_side: int) -> tuple[int, int]:
    """(width, height) after scaling the short side to ``short_side``; the long side is rounded to even."""
    scale = short_side / min(width, height)
    fit = [
        short_side if side == min(width, height) else max(short_side, 2 * round(side * scale / 2))
        for side in (width, height)
    ]
    return fit[0], fit[1]


class Resizer:
    """Frames of one size from the pictures of a stream.

    Args:
        short_side: of the frames, in pixels, even.
        pixel_aspect: width over height of a pixel as coded.
        square_pixels: whether pictures are stretched until their pixels are square.
    """

    def __init__(self, short_side: int, pixel_aspect: Fraction, *, square_pixels: bool) -> None:
        self._short_side, self._pixel, self._square = short_side, pixel_aspect, square_pixels
        self._size: tuple[int, int] | None = None
        self._orientation = Orientation()
        self.source_size: tuple[int, int] | None = None
        """(width, height) of the first picture, upright; None before it."""

    @property
    def pixel_aspect(self) -> Fraction:
        """Width over height of a pixel, upright once the first picture was taken."""
        return 1 / self._pixel if self._orientation.transposed else self._pixel

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture as uint8 RGB (H, W, 3).

        Raises:
            RejectedSource: ``bad_shape``: one side is more than 10 times the other.
        """
        width, height = frame.width, frame.height
        shown = (width * self._pixel, height) if self._square else (width, height)
        if max(shown) > MAX_ASPECT * min(shown):
            raise RejectedSource("bad_shape", f"pictures of {width}x{height}")
        if self._size is None:
            self._size = stored_size(*shown, self._short_side)
            self._orientation = Orientation.of_frame(frame)
            self.source_size = (height, width) if self._orientation.transposed else (width, height)
        # A stream may change its size; the sample keeps that of its first picture. Shrinking averages all
        # source pixels under a target pixel (area). Bilinear or cubic sampling would skip pixels, and what they skip
        # flickers from frame to frame: the flow would follow the flicker. Enlarging is bilinear.
        shrinks = self._size[0] < width or (self._square and self._size[1] < height)
        small = frame.to_ndarray(
            format="rgb24",
            width=self._size[0],
            height=self._size[1],
            interpolation=_SHRINK if shrinks else _ENLARGE,
        )
        return self._orientation.apply(small)
