"""Containers and packets as FFmpeg gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.common.media import open_media
from pipeline.errors import RejectedSource
from preprocessing.media.stamps import RunningOn


def open_container(source: str | Path | bytes) -> InputContainer:
    try:
        return open_media(source)
    except av.error.ArgumentError as error:
        raise RejectedSource("not_video", "it is in none of the formats that hold a video themselves") from error
    except av.FFmpegError as error:
        raise RejectedSource("not_video", f"FFmpeg cannot open it: {error.strerror or error}") from error
    except OSError as error:
        raise RejectedSource("unreadable", str(error)) from error


def check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise RejectedSource("missing", "not a file" if path.exists() else "no such file")
        if path.stat().st_size == 0:
            raise RejectedSource("empty", "0 bytes")
    except OSError as error:
        raise RejectedSource("unreadable", str(error)) from error


def packets(container: InputContainer, stream: VideoStream, *, all_streams: bool = False) -> Iterator[av.Packet]:
    """Packets with a running clock, at the end those without content that make a decoder give its last pictures. Other
    streams' come too where ``all_streams``.
    """
    running = RunningOn(container, stream)
    for packet in container.demux() if all_streams else container.demux(stream):
        if packet.size and packet.stream_index == stream.index:
            running.correct(packet)
        # A packet without content that has a time is a dropped frame: its predecessor stays.
        if packet.size or (packet.pts is None and packet.dts is None):
            yield packet
