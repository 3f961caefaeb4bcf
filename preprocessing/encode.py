"""Stored videos: VP9 in MP4 with closed groups of pictures and the same bytes for the same frames.

VP9 because it is the one small format that DALI decodes on the CPU and on the GPU; the figures are in the
design notes. Quality ``crf`` at speed ``cpu-used 8``: encoding costs a hundredth of the flow.
"""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from preprocessing.decode import EXACT_COLOUR

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


def _encode(frames: list[av.VideoFrame], fps: float, codec: VideoCodec, *, full_range: bool) -> bytes:
    buffer = io.BytesIO()
    # bitexact: no creation time and no library version in the file. faststart would need a second pass and a
    # reader of a whole member gains nothing from it.
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=stored_rate(fps), options=_options(codec))
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        context = stream.codec_context
        context.gop_size = codec.gop
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        context.colorspace = Colorspace.ITU601
        context.color_primaries = ColorPrimaries.SMPTE170M
        context.color_trc = ColorTrc.SMPTE170M
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, 1 / stored_rate(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_rgb(frames_rgb_THWC: np.ndarray, fps: float, codec: VideoCodec) -> bytes:
    """Encode colour frames (RGB, or RGB differences around 128).

    Stored as BT.601 limited range, and tagged so. BT.601 because that is what every decoder assumes for a video of
    this size when it does not read the tag.

    Args:
        frames_rgb_THWC: (T, H, W, 3) uint8, T >= 1, H and W even.

    Raises:
        ValueError: another shape or dtype, naming it.
    """
    _check(frames_rgb_THWC, 4)
    frames = []
    for rgb in frames_rgb_THWC:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frames.append(
            frame.reformat(
                format="yuv420p", src_colorspace=Colorspace.ITU601, dst_colorspace=Colorspace.ITU601, src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG, interpolation=EXACT_COLOUR
            )
        )
    return _encode(frames, fps, codec, full_range=False)


def encode_gray(codes_THW: np.ndarray, fps: float, codec: VideoCodec) -> bytes:
    """Encode pictures of 8-bit codes so that decoders give the codes back over the whole range 0..255.

    The codes are the luma plane itself, in a video tagged full range with neutral colour: nothing is scaled on the
    way in, and a decoder that asks for grey or RGB scales nothing on the way out.

    Args:
        codes_THW: (T, H, W) uint8, T >= 1, H and W even.

    Raises:
        ValueError: another shape or dtype, naming it.
    """
    _check(codes_THW, 3)
    height, width = codes_THW.shape[1:]
    neutral = np.full((height // 2, width), 128, np.uint8)  # U and V, in PyAV's planar layout
    frames = [av.VideoFrame.from_ndarray(np.concatenate([codes, neutral]), format="yuv420p") for codes in codes_THW]
    for frame in frames:
        frame.color_range = ColorRange.JPEG
        frame.colorspace = Colorspace.ITU601
    return _encode(frames, fps, codec, full_range=True)


def _check(frames: np.ndarray, ndim: int) -> None:
    shape = "(T, H, W, 3)" if ndim == 4 else "(T, H, W)"
    ok = frames.ndim == ndim and frames.dtype == np.uint8 and (ndim == 3 or frames.shape[-1] == 3)
    if not ok or frames.shape[0] < 1 or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"expected uint8 {shape} with T >= 1 and even H and W, got {frames.dtype} {frames.shape}")
