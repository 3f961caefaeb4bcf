"""The one way to open videos: formats, protocols and picture sizes that may be read, listed once.

FFmpeg reads more than videos. A playlist, a session description or a concat script names other files, addresses or
devices, and a file says what it is by its content, not by its name: such a file in the place of a video would pull
them into a sample. And a few kilobytes can unfold to a picture of gigabytes. So nothing in this project opens a video
by itself, and what is opened here refuses a picture over ``max_pixels`` before memory is taken for it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from pipeline.errors import ReciprocalError

_WITH_HEADER = ("mov", "matroska", "avi", "h264")
FORMATS = (
    *_WITH_HEADER,
    *("3dostr", "4xm", "apng", "asf", "asf_o", "av1", "avs2", "avs3", "bink", "cavsvideo", "cdxl", "dhav", "dirac"),
    *("dnxhd", "dv", "evc", "flic", "flv", "gif", "gxf", "h261", "h263", "hevc", "ipu", "ivf", "ivr", "kux"),
    *("live_flv", "lxf", "m4v", "mjpeg", "mjpeg_2000", "mlv", "mods", "mpeg", "mpegts", "mpegvideo", "mpjpeg", "mtv"),
    *("mvi", "mxf", "mxg", "nsv", "nut", "nuv", "obu", "ogg", "pmp", "pva", "rm", "roq", "smjpeg", "smk", "swf", "thp"),
    *("ty", "vc1", "vc1test", "vivo", "vvc", "wtv", "yuv4mpegpipe"),
    # What is often found beside videos: opened, so that the message says what it is.
    *("bmp_pipe", "gif_pipe", "jpeg_pipe", "jpegxl_pipe", "png_pipe", "tiff_pipe", "webp_pipe"),
    *("aac", "ac3", "aiff", "amr", "flac", "mp3", "wav"),
)
"""FFmpeg's names of the formats that hold their video themselves."""
STORED_FORMATS = _WITH_HEADER
"""Those for members of shards: they announce their streams at once, so that limits hold from the first byte on."""
PROTOCOLS = ("file",)
MAX_PIXELS = 64 << 20  # of a source's picture; 8K video has 33 million
_ALIGNMENT = 64  # decoders round sizes up to whole blocks, and the largest are those of VP9 and AV1


class WrongPictureSize(ReciprocalError):
    """The pictures of a stored video are not of its record's size."""


def open_media(
    source: str | Path | bytes | BinaryIO | io.RawIOBase,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> InputContainer:
    """Open a video file (path), its bytes, or a binary file object.

    Args:
        max_pixels: decoding fails with ``av.error.ArgumentError`` at a larger picture, before memory is taken for it.
        formats: what it may be.

    Raises:
        av.FFmpegError: FFmpeg cannot read it, or it is in another format.
        OSError: the file cannot be read.
    """
    limit = {"max_pixels": str(max_pixels)}
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    container = av.open(
        f"file:{file}" if isinstance(file, str | Path) else file,
        "r",
        metadata_errors="replace",
        options={"format_whitelist": ",".join(formats), "protocol_whitelist": ",".join(PROTOCOLS), **limit},
    )
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = dict(limit)
    return container


def pixel_limit(width: int, height: int) -> int:
    """``max_pixels`` for a video of this size."""
    columns, rows = (-(-side // _ALIGNMENT) * _ALIGNMENT for side in (width, height))
    return columns * rows


def open_stored(source: bytes | Path | BinaryIO | io.RawIOBase, width: int, height: int) -> InputContainer:
    """Open a member of a shard whose record says ``width`` x ``height``; larger pictures are never decoded.

    Raises:
        WrongPictureSize: it announces another size.
        IndexError: it holds no video stream.
        av.FFmpegError, OSError: as ``open_media``.
    """
    limit = pixel_limit(width, height)
    container = open_media(source, max_pixels=limit, formats=STORED_FORMATS)
    try:
        context = container.streams.video[0].codec_context
        found = (context.width, context.height)
        if found != (width, height):
            # FFmpeg forgets a size that is over the limit.
            size = f"{found[0]}x{found[1]}" if all(found) else f"more than {limit} pixels"
            raise WrongPictureSize(f"pictures of {size}, its record says {width}x{height}")
    except BaseException:
        container.close()
        raise
    return container


def check_picture(frame: av.VideoFrame, width: int, height: int) -> None:
    """Raise WrongPictureSize where a decoded picture is not ``width`` x ``height``: sizes may change on the way."""
    if (frame.width, frame.height) != (width, height):
        raise WrongPictureSize(f"a picture of {frame.width}x{frame.height}, its record says {width}x{height}")
