"""Which stream of a file is its video, and in which clock its times are counted.

A cover or a still is not the video, flagged as such or not. Of several videos the one that the file marks as default
is taken, then the larger, then the first.

Seconds count from where the earliest stream of the file starts, sound included, as ``ffmpeg -ss`` counts them: the
picture that is shown together with the sound at 3 s is at 3 s, whatever the time stamps begin with.
"""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import RejectedSource
from preprocessing.media.packets import open_container

_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def choose_stream(source: str | Path | bytes) -> int:
    """Index of the video among the streams of a file.

    Raises:
        RejectedSource: ``not_video``: there is none, or FFmpeg does not know its coding.
    """
    with open_container(source) as container:
        videos = [s for s in container.streams.video if s.codec_context is not None]
        videos = [s for s in videos if not s.disposition & Disposition.attached_pic]
        if not videos:
            raise RejectedSource("not_video", f"no video among its streams: {_described(container)}")
        if len(videos) > 1:
            moving = [s for s in videos if not s.disposition & _STILL] or videos
            several = _of_several_pictures(container, moving)
            videos = [s for s in moving if s.index in several] or moving
        best = min(videos, key=lambda s: (not s.disposition & Disposition.default, -s.width * s.height, s.index))
        return best.index


def open_stream(source: str | Path | bytes, index: int) -> tuple[InputContainer, VideoStream]:
    """A file opened anew and its video, which is decoded in one thread: a task is one core."""
    container = open_container(source)
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    stream.thread_count, stream.thread_type = 1, "NONE"
    return container, stream


def origin_s(container: InputContainer) -> float:
    """Where the file's clock has its zero, in seconds of its time stamps."""
    return (container.start_time or 0) / av.time_base


def announced_rate(container: InputContainer, stream: VideoStream) -> float:
    """Pictures per second by the container, or by the coded stream where the container has no clock; 0: unknown."""
    # FFmpeg gives 25 as the average rate of any stream without a container.
    no_clock = container.format.flags & Flags.no_timestamps.value
    return float((stream.guessed_rate if no_clock else stream.average_rate) or 0)


def _of_several_pictures(container: InputContainer, streams: list[VideoStream]) -> set[int]:
    """Indices of those streams that have more than one picture."""
    counts = dict.fromkeys((s.index for s in streams), 0)
    try:
        for packet in container.demux(tuple(streams)):
            counts[packet.stream_index] += packet.size > 0
            if min(counts.values()) > 1:
                break
    except av.FFmpegError:
        pass  # what was counted until then
    return {index for index, count in counts.items() if count > 1}


def _described(container: InputContainer) -> str:
    names = []
    for stream in container.streams:
        if isinstance(stream, VideoStream):
            cover = stream.disposition & Disposition.attached_pic
            names.append("cover picture" if cover else "video in a coding that FFmpeg does not know")
        else:
            names.append(stream.type)
    return ", ".join(names) or "none"
