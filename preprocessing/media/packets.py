"""Containers, packets and pictures as FFmpeg gives them, from which ``preprocessing.media.decode`` makes frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.common.media import MAX_PIXELS, open_media
from pipeline.errors import RejectedSource


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


def video_stream(container: InputContainer) -> VideoStream:
    # A sound file's cover picture is a video stream of one frame that says it is attached.
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_count, stream.thread_type = 1, "NONE"
            return stream
    raise RejectedSource("not_video", f"streams: {[s.type for s in container.streams] or 'none'}")


@dataclasses.dataclass
class Damage:
    """Packets seen in the part asked for, and those that failed or gave a picture that FFmpeg calls corrupt."""

    packets: int = 0
    bad: int = 0
    first: str = ""

    def add(self, what: str) -> None:
        self.bad += 1
        self.first = self.first or what


def packet_times(container: InputContainer, stream: VideoStream, start_s: float, end_s: float | None) -> np.ndarray:
    """Sorted presentation times, in seconds from the start of the stream, of the packets in the part; NaN where one has
    none.

    Nothing is decoded. Nearly every codec has one picture per packet, which is good enough for a rate.
    """
    tick_s, origin_s, slack_s = _units(stream)
    times: list[float] = []
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        # AVI stores only decoding times, and these pictures are shown in another order.
        return np.array([np.nan, np.nan])
    try:
        if start_s > 0 and stream.time_base is not None:
            container.seek(int((start_s + origin_s) / tick_s), stream=stream)
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return np.array([np.nan, np.nan])
            time_s = packet.pts * tick_s - origin_s
            if end_s is not None and packet.dts is not None and packet.dts * tick_s - origin_s >= end_s:
                break  # decoding times are at or before presentation times
            if time_s >= start_s - slack_s and (end_s is None or time_s < end_s - slack_s):
                times.append(time_s)
    except av.FFmpegError:
        pass  # decoding meets the same error and decides
    return np.sort(np.array(times))


def _units(stream: VideoStream) -> tuple[float, float, float]:
    """(seconds of a tick, seconds of the stream's start, slack in seconds for times that are rounded to ticks)."""
    tick_s = float(stream.time_base or 1)
    return (
        tick_s,
        float(stream.start_time or 0) * tick_s,
        0.25 / float(stream.average_rate) if stream.average_rate else 0.01,
    )


def announced_pictures(stream: VideoStream, start_s: float, end_s: float | None) -> float:
    """Number of pictures in the part by the container; 0 if it does not say."""
    duration_s = float((stream.duration or 0) * (stream.time_base or 0))
    if duration_s <= 0:
        return 0.0 if start_s or end_s is not None else float(stream.frames)
    covered_s = max(0.0, (duration_s if end_s is None else min(end_s, duration_s)) - start_s)
    # Cutting may cost a picture at each end.
    return stream.frames * covered_s / duration_s - (2 if covered_s < duration_s else 0)


def decoded_pictures(
    container: InputContainer,
    stream: VideoStream,
    start_s: float,
    end_s: float | None,
    damage: Damage,
    *,
    trusted: bool,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures in presentation order with their times in seconds from the start of the stream.

    Where the clock is not trusted a picture's time is its number over the announced rate, and nothing is skipped by
    seeking.
    """
    tick_s, origin_s, slack_s = _units(stream)
    rate = float(stream.average_rate or 0) or 25.0
    if start_s > 0 and stream.time_base is not None and trusted:
        container.seek(int((start_s + origin_s) / tick_s), stream=stream)  # to the keyframe before
    number = -1
    for packet in container.demux(stream):
        damage.packets += packet.size > 0
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError as error:  # continue: the next keyframe repairs it
            damage.add(error.strerror or str(error))
            continue
        except av.error.ArgumentError as error:
            if stream.codec_context.width:
                raise
            # FFmpeg forgets a size that is over the limit.
            raise RejectedSource("too_large", f"pictures of more than {MAX_PIXELS} pixels") from error
        for frame in pictures:
            number += 1
            time_s = number / rate if not trusted else frame.time - origin_s if frame.time is not None else float("nan")
            if time_s < start_s - slack_s:
                damage.packets -= 1
                continue
            if end_s is not None and time_s >= end_s - slack_s:
                return
            if frame.is_corrupt:
                damage.add(f"corrupt picture at {time_s:.2f} s")
            yield time_s, frame
