"""Stored videos: VP9 in MP4 with closed groups of pictures and the same bytes for the same frames.

VP9 because it is the one small format that DALI decodes on the CPU and on the GPU; the figures are in the
design notes. Quality ``crf`` at speed ``cpu-used 8``: encoding costs a hundredth of the flow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

# Chroma of 2x2 pixels is their average; bit-exact, so that the stored bytes do not depend on the machine's vector
# instructions.
_AVERAGED_CHROMA = (
    Interpolation.AREA | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)
# Largest denominator of a stored frame rate: 1001 is what broadcast rates need.
_MAX_DENOMINATOR = 1001


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoCodec:
    """How frames become bytes: the part of ``StoredConfig`` that an encoder needs."""

    gop: int = 16  # frames from one keyframe to the next
    crf: int = 20  # 0 best .. 63 worst


def stored_rate(fps: float) -> Fraction:
    """The frame rate written to a container: the nearest fraction with a denominator up to 1001."""
    return Fraction(fps).limit_denominator(_MAX_DENOMINATOR)


def _options(codec: VideoCodec) -> dict[str, str]:
    return {
        "crf": str(codec.crf),
        "b": "0",  # constant quality: no rate control
        "g": str(codec.gop),
        "keyint_min": str(codec.gop),  # keyframes exactly every gop frames, so a reader can compute where they are
        "deadline": "realtime",
        "cpu-used": "8",
        "lag-in-frames": "0",
        "auto-alt-ref": "0",  # no hidden frames: packets and frames are one to one, groups are closed
        "row-mt": "0",
        "tile-columns": "0",
        "threads": "1",  # bits depend on the number of threads
    }


class VideoWriter:
    """Writes one stored video, some pictures at a time; closing it finishes the file.

    Args:
        target: local file to write, or a binary buffer.
        kind: ``rgb``: colour frames (RGB, or RGB differences around 128), stored as BT.601 limited range, and tagged
            so, because that is what every decoder assumes for a video of this size when it does not read the tag.
            ``gray``: 8-bit codes that decoders return over the whole range 0..255. The codes are the luma plane
            itself, in a video tagged full range with neutral colour: nothing is scaled on the way in, and a decoder
            that asks for grey or RGB scales nothing on the way out.
        size: (width, height), both even.
    """

    def __init__(
        self,
        target: Path | io.BytesIO,
        kind: Literal["rgb", "gray"],
        size: tuple[int, int],
        fps: float,
        codec: VideoCodec,
    ) -> None:
        self._kind, self._size, self._rate, self._count = kind, size, stored_rate(fps), 0
        self._error: BaseException | None = None
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"expected even width and height, got {size}")
        # bitexact: no creation time and no library version in the file. faststart would need a second pass and a
        # reader of a whole member gains nothing from it.
        self._container = av.open(
            target if isinstance(target, io.BytesIO) else str(target),
            "w",
            format="mp4",
            container_options={"fflags": "+bitexact"},
        )
        self._stream = self._container.add_stream("libvpx-vp9", rate=self._rate, options=_options(codec))
        self._stream.width, self._stream.height, self._stream.pix_fmt = *size, "yuv420p"
        context = self._stream.codec_context
        context.gop_size = codec.gop
        context.color_range = ColorRange.JPEG if kind == "gray" else ColorRange.MPEG
        context.colorspace = Colorspace.ITU601
        context.color_primaries = ColorPrimaries.SMPTE170M
        context.color_trc = ColorTrc.SMPTE170M
        self._neutral = np.full((size[1] // 2, size[0]), 128, np.uint8)  # U and V, in PyAV's planar layout

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, pictures: np.ndarray) -> None:
        """Append (T, H, W, 3) uint8 (``rgb``) or (T, H, W) uint8 (``gray``); T >= 1. ValueError: another shape or
        dtype.
        """
        _check(pictures, 4 if self._kind == "rgb" else 3, self._size)
        for picture in pictures:
            frame = self._rgb(picture) if self._kind == "rgb" else self._gray(picture)
            frame.pts, frame.time_base = self._count, 1 / self._rate
            self._count += 1
            self._mux(frame)

    def close(self) -> None:
        """Finish the file."""
        self._mux(None)
        self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        # FFmpeg's MP4 writer crashes the process if it is used after a failure, and more blocks may be queued when the
        # disk is full.
        if self._error is not None:
            raise self._error
        try:
            self._container.mux(self._stream.encode(frame))
        except BaseException as error:
            self._error = error
            raise

    def abandon(self) -> None:
        """Close an unfinished file. Its content is of no use, so errors while closing do not matter."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    def _rgb(self, picture: np.ndarray) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
            format="yuv420p",
            src_colorspace=Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=_AVERAGED_CHROMA,
        )

    def _gray(self, picture: np.ndarray) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.concatenate([picture, self._neutral]), format="yuv420p")
        frame.color_range = ColorRange.JPEG
        frame.colorspace = Colorspace.ITU601
        return frame


def _check(frames: np.ndarray, ndim: int, size: tuple[int, int]) -> None:
    shape = "(T, H, W, 3)" if ndim == 4 else "(T, H, W)"
    ok = frames.ndim == ndim and frames.dtype == np.uint8 and (ndim == 3 or frames.shape[-1] == 3)
    if not ok or frames.shape[0] < 1:
        raise ValueError(f"expected uint8 {shape} with T >= 1, got {frames.dtype} {frames.shape}")
    if (frames.shape[2], frames.shape[1]) != size:
        raise ValueError(f"expected pictures of {size[0]}x{size[1]}, got {frames.shape[2]}x{frames.shape[1]}")
