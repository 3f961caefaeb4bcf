"""One pass over the packets of a file, before anything is decoded: which pictures there are, and when.

Packets that an edit list hides, or that the file marks to be discarded, are decoded for the pictures that need them
and shown by nobody; they do not count.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from preprocessing.media.announced import Announced, announced_end
from preprocessing.media.packets import packets
from preprocessing.media.stamps import PictureTimes
from preprocessing.media.streams import announced_rate, open_stream, origin_s

_INDEXED = {"mov", "matroska", "avi"}  # formats whose index leads to the keyframe before a time
_WRONG = 0.5  # share of pictures without a time stamp of their own from which on a clock is not believed
_SEARCH_S = (0.0, 2.0, 10.0)  # pictures may be stored behind a keyframe that is shown after them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known about a stream, or a part of it, once its packets were seen."""

    index: int
    """Of the stream in its container."""
    times: PictureTimes
    """Of the pictures from where reading began."""
    trusted: bool
    """Whether most pictures have a time stamp of their own."""
    part_s: np.ndarray
    """(N,) times in seconds of the pictures in the part, increasing; NaN where the clock is not trusted."""
    announced_fps: float
    """Pictures per second by the container; 0: it does not say."""
    seek_tick: int | None
    """Where reading began, None: at the beginning of the file."""
    num_skipped: int
    """Packets read before the keyframe from which the part is decoded."""
    announced_end_s: float | None
    """The file's end by its own account, in its clock."""
    whole: bool
    """False where nothing tells whether the file was cut."""
    last_s: float
    """Where the last packet that was read ends."""
    others_end_s: float
    """Where the other streams end, as far as they had to be read."""
    passed: bool
    """Whether the file goes on behind the part."""


def in_part(time_s: float | np.ndarray, start_s: float, end_s: float | None, usual_s: float) -> bool | np.ndarray:
    """Whether pictures belong to a part: from its start (included) to its end (not), give or take the rounding of time
    stamps. A part that starts at 0 has everything before it as well: time stamps may begin below zero.
    """
    slack_s = usual_s / 4
    after = time_s >= start_s - slack_s if start_s > 0 else time_s == time_s
    return after if end_s is None else after & (time_s < end_s - slack_s)


def scan(source: str | Path | bytes, index: int, start_s: float, end_s: float | None) -> Scan:
    """Read the packets of a part, as few others as possible, and decode none.

    Args:
        index: of the stream.
        start_s, end_s: in the file's clock; None: to the end.
    """
    seek = None
    if start_s > 0:
        container, stream = open_stream(source, index)
        with container:
            seek = _seek_tick(container, stream, start_s)
    container, stream = open_stream(source, index)
    with container:
        tick_s, zero_s = float(stream.time_base or 1), origin_s(container)
        # AVI stores decoding times only; pictures that are stored in another order than shown have no others.
        numbered = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
        announced = announced_end(container, stream, source)
        if seek is not None and not numbered:
            container.seek(seek, stream=stream)
        else:
            seek = None
        found = _read(container, stream, announced, numbered, end_s, zero_s)
        times = PictureTimes(found.ticks, tick_s, zero_s, num_leading=found.num_leading, numbered=numbered)
        trusted = min(times.known, times.distinct) > _WRONG * len(found.ticks)
        part = times.times_s[in_part(times.times_s, start_s, end_s, times.usual_s)] if trusted else np.full(2, np.nan)
        skipped = 0
        if start_s > 0 and trusted and not numbered and len(part):
            before = [n for n, tick in found.keyframes if tick * tick_s - zero_s <= part[0] + 1e-6]
            skipped = before[-1] if before else 0
        return Scan(
            index=index,
            times=times,
            trusted=trusted,
            part_s=part,
            announced_fps=announced_rate(container, stream),
            seek_tick=seek if trusted else None,
            num_skipped=skipped,
            announced_end_s=None if announced.end_s is None else announced.end_s - zero_s,
            whole=announced.whole,
            last_s=found.end_tick * tick_s - zero_s,
            others_end_s=found.others_end_s - zero_s,
            passed=found.passed,
        )


@dataclasses.dataclass
class _Read:
    ticks: list[int | None] = dataclasses.field(default_factory=list)
    keyframes: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (number of the packet, tick)
    num_leading: int = 0  # packets without a time stamp before the first decoding time
    end_tick: int = 0
    others_end_s: float = 0.0
    passed: bool = False


def _read(
    container: InputContainer,
    stream: VideoStream,
    announced: Announced,
    numbered: bool,
    end_s: float | None,
    zero_s: float,
) -> _Read:
    found = _Read()
    end_tick = None if end_s is None else (end_s + zero_s) / float(stream.time_base or 1)
    others = announced.end_s is not None and not announced.of_video
    number, has_dts = -1, False
    try:
        for packet in packets(container, stream, all_streams=others):
            if not packet.size:
                continue
            if packet.stream_index != stream.index:
                if packet.pts is not None:
                    ends_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    found.others_end_s = max(found.others_end_s, ends_s)
                continue
            number += 1
            tick = packet.dts if numbered else packet.pts
            if packet.is_keyframe and tick is not None:
                found.keyframes.append((number, tick))
            if packet.is_discard:
                continue
            found.ticks.append(tick)
            has_dts |= packet.dts is not None
            found.num_leading += tick is None and not has_dts
            if tick is not None:
                found.end_tick = max(found.end_tick, tick + (packet.duration or 0))
            if end_tick is None:
                continue
            found.passed |= tick is not None and tick >= end_tick
            if found.passed and packet.dts is not None and packet.dts >= end_tick:
                break  # decoding times are at or before presentation times
    except av.FFmpegError:
        pass  # decoding meets the same error and decides
    return found


def _seek_tick(container: InputContainer, stream: VideoStream, start_s: float) -> int | None:
    """A time stamp from which the keyframe before ``start_s`` is found; None: read from the beginning."""
    if container.format.name.split(",")[0] not in _INDEXED or stream.time_base is None:
        return None
    wanted = (start_s + origin_s(container)) / float(stream.time_base)
    for back_s in _SEARCH_S:
        tick = int(wanted - back_s / float(stream.time_base))
        if not 0 < tick < 1 << 62:
            return None
        try:
            container.seek(tick, stream=stream)
            first = next((p for p in container.demux(stream) if p.size), None)
        except av.FFmpegError:
            return None
        if first is not None and first.is_keyframe and first.pts is not None and first.pts <= wanted:
            return tick
    return None
