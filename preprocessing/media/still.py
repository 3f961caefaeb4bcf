"""A picture file (JPEG, PNG, WebP) to one small upright RGB frame, or to a reject with its reason.

What a file is, its content says, not its name. FFmpeg decodes it, as it does videos:

* turned and mirrored as its Exif block says;
* CMYK, grey, palettes and 16 bits become 8-bit RGB; colour profiles are not applied;
* what is transparent is shown on white;
* the first picture of an MPO file (two views of one scene); an animated PNG or WebP, or a GIF, is no picture;
* resized as pictures of a video are (``preprocessing.media.resize``); densities in the file say nothing about the shape
  of its pixels, which are taken as square.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.error import ArgumentError

from pipeline.common.media import MAX_PIXELS, open_media
from pipeline.errors import RejectedSource
from preprocessing.media.exif import JPEG, PNG, RIFF, exif_orientation
from preprocessing.media.packets import check_file
from preprocessing.media.resize import Resizer

PICTURE_FPS = 1.0
"""Rate of a stored picture, which has none: it is shown for a second."""

_FORMATS = ("jpeg_pipe", "mjpeg", "png_pipe", "webp_pipe")  # mjpeg: MPO
_MAX_BYTES = 512 << 20
_STRICT = "+crccheck+explode"  # else what a cut file lacks is grey, and nobody is told
_ANIMATION = 0x02  # of the flags of a WebP file
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"  # markers
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk, with its checksum


class PictureReader:
    """The one frame of a picture file, with the interface of ``preprocessing.media.decode.VideoReader``.

    Args:
        source: the file.
        short_side: of the frame, in pixels, even.
        fps: rate to announce; 0: ``PICTURE_FPS``.

    Raises:
        RejectedSource: anything that is wrong with the file, with a reason from ``REASONS``.
    """

    length_announced = True
    pixel_aspect = Fraction(1)

    def __init__(self, source: Path, *, short_side: int, fps: float = 0.0) -> None:
        check_file(source)
        if (size := source.stat().st_size) > _MAX_BYTES:
            raise RejectedSource("too_large", f"a picture of {size >> 20} MiB")
        self._source, self._resizer = source, Resizer(short_side, Fraction(1), square_pixels=False)
        self.fps = fps or PICTURE_FPS
        self.decoded_frames = 0

    @property
    def source_size(self) -> tuple[int, int] | None:
        """(width, height) of the picture, upright; None before it was taken."""
        return self._resizer.source_size

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 RGB (H, W, 3), even H and W, once."""
        try:
            data = self._source.read_bytes()
        except OSError as error:
            raise RejectedSource("unreadable", str(error)) from error
        if data.startswith(PNG) and (end := data.rfind(_PNG_END)) > 0:
            data = data[: end + len(_PNG_END)]  # FFmpeg refuses what others ignore
        frame = _decoded(data)
        self.decoded_frames = 1
        upright = exif_orientation(data).apply(_rgb(frame))
        yield self._resizer(av.VideoFrame.from_ndarray(upright, format="rgb24"))


def _check_kind(data: bytes) -> None:
    if data.startswith(PNG):
        animated = b"acTL" in data[: data.find(b"IDAT")]
    elif data.startswith(RIFF) and data[8:12] == b"WEBP":
        animated = data[12:16] == b"VP8X" and bool(data[20:21]) and bool(data[20] & _ANIMATION)
    elif data.startswith(JPEG):
        animated = False
        if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
            raise RejectedSource("truncated", "the last scan has no end")
    else:
        raise RejectedSource("not_picture", "it is no JPEG, PNG or WebP")
    if animated:
        raise RejectedSource("not_picture", "it is animated")


def _decoded(data: bytes) -> av.VideoFrame:
    _check_kind(data)
    try:
        with open_media(data, formats=_FORMATS) as container:
            context = container.streams.video[0].codec_context
            context.options = {**context.options, "err_detect": _STRICT}
            frame = next(container.decode(video=0), None)
    except ArgumentError as error:  # FFmpeg forgets a size that is over the limit
        raise RejectedSource("too_large", f"a picture of more than {MAX_PIXELS} pixels") from error
    except (av.FFmpegError, IndexError) as error:
        raise RejectedSource("decode_error", getattr(error, "strerror", "") or str(error)) from error
    if frame is None:
        raise RejectedSource("no_frames", "the file has no picture")
    return frame


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 (H, W, 3) of the picture as coded; transparent parts on white."""
    if frame.format.name != "pal8" and not any(part.is_alpha for part in frame.format.components):
        return frame.to_ndarray(format="rgb24")
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = rgba[..., 3:]
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
