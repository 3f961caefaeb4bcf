"""Some frames of a video in memory, by number, decoded from the keyframe at or before the first of them.

Frame n is the n-th shown, counted from 0, whatever the container says about times: packets are all looked at first, and
their times sorted. Where that fails (missing or repeated times, packets that show no frame) the video is decoded from
its start and frames are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import av
import av.error

from pipeline.common.media import MAX_PIXELS, STORED_FORMATS, WrongPictureSize, check_picture, open_media, pixel_limit
from pipeline.data.decoding.mp4 import read_track
from pipeline.errors import ReciprocalError

T = TypeVar("T")


class _Uncounted(Exception):
    """A frame came whose number is not known."""


def read_frames(
    video: bytes,
    wanted: Sequence[int],
    take: Callable[[av.VideoFrame], T],
    what: str,
    size: tuple[int, int] | None = None,
) -> list[T]:
    """Decode frames and keep what ``take`` makes of them.

    Args:
        wanted: ascending numbers, repeats allowed; ``take`` sees each frame once.
        what: of which kind the video is, for messages.
        size: rows and columns that every picture must have; None: any.

    Returns:
        One value for each of ``wanted``.

    Raises:
        WrongPictureSize: a picture is not of ``size``.
        ReciprocalError: the video is shorter than the last number, or FFmpeg cannot decode it.
    """
    keep, limit = (take, MAX_PIXELS) if size is None else (_checked(take, size), pixel_limit(size[1], size[0]))
    distinct = set(wanted)
    try:
        found = _by_table(video, distinct, keep, limit)
        if found is None:
            found = _by_container(video, distinct, keep, limit)
    except WrongPictureSize as error:
        raise WrongPictureSize(f"{what}: {error}") from error
    except (av.error.FFmpegError, IndexError) as error:
        if size is not None and isinstance(error, av.error.ArgumentError):  # FFmpeg's answer to max_pixels
            what_it_says = f"its record says {size[1]}x{size[0]}"
            raise WrongPictureSize(f"{what}: a picture of more than {limit} pixels, {what_it_says}") from error
        raise ReciprocalError(f"FFmpeg cannot decode this {what} video: {error}") from error
    if len(found) < len(distinct):
        raise ReciprocalError(f"the {what} video has no frame {max(distinct)}: its record is wrong")
    return [found[number] for number in wanted]


def _checked(take: Callable[[av.VideoFrame], T], size: tuple[int, int]) -> Callable[[av.VideoFrame], T]:
    def checked(frame: av.VideoFrame) -> T:
        check_picture(frame, size[1], size[0])
        return take(frame)

    return checked


def _by_table(
    video: bytes, wanted: set[int], take: Callable[[av.VideoFrame], T], max_pixels: int = MAX_PIXELS
) -> dict[int, T] | None:
    track = read_track(video)
    if track is None or max(wanted) >= len(track.sizes):
        return None
    first = int(track.keyframes[track.keyframes <= min(wanted)][-1])
    context: Any = av.CodecContext.create(track.codec, "r")
    _single_threaded(context)
    context.options = {"max_pixels": str(max_pixels)}

    def packets() -> Iterator[av.Packet]:
        for number in range(first, max(wanted) + 1):
            offset = track.offsets[number]
            packet = av.Packet(video[offset : offset + track.sizes[number]])
            packet.pts = packet.dts = number
            yield packet

    found = _take(
        (frame for packet in packets() for frame in context.decode(packet)), lambda frame: frame.pts, wanted, take
    )
    return found if len(found) == len(wanted) else None


def _by_container(
    video: bytes, wanted: set[int], take: Callable[[av.VideoFrame], T], max_pixels: int = MAX_PIXELS
) -> dict[int, T]:
    with open_media(video, max_pixels=max_pixels, formats=STORED_FORMATS) as container:
        stream = container.streams.video[0]
        _single_threaded(stream.codec_context)
        packets = [packet for packet in container.demux(stream) if packet.size]
        # A packet marked "discard" is decoded and not shown: an edit list begins after it.
        shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
        numbers: dict[int | None, int] = {pts: number for number, pts in enumerate(shown)}
        if all(packet.pts is not None for packet in packets) and len(numbers) == len(shown) > max(wanted):
            target = shown[min(wanted)]
            starts = [
                i
                for i, packet in enumerate(packets)
                if packet.is_keyframe and packet.pts is not None and packet.pts <= target
            ]
            # Frames shown before the keyframe but stored after it may need what came before; they are not wanted.
            frames = _decode(stream.codec_context, packets[starts[-1] :] if starts else packets)
            try:
                found = _take(frames, lambda frame: numbers.get(frame.pts), wanted, take)
            except _Uncounted:
                found = {}
            if len(found) == len(wanted):
                return found
    with open_media(video, max_pixels=max_pixels, formats=STORED_FORMATS) as container:
        stream = container.streams.video[0]
        _single_threaded(stream.codec_context)
        count = iter(range(1 << 62))
        return _take(container.decode(stream), lambda frame: next(count), wanted, take)


def _single_threaded(context: av.CodecContext) -> None:
    context.thread_type, context.thread_count = "NONE", 1  # threads are the loader's business


def _decode(context: Any, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    for packet in packets:
        yield from context.decode(packet)
    yield from context.decode(None)


def _take(
    frames: Iterable[av.VideoFrame],
    number_of: Callable[[av.VideoFrame], int | None],
    wanted: set[int],
    take: Callable[[av.VideoFrame], T],
) -> dict[int, T]:
    found: dict[int, T] = {}
    for frame in frames:
        number = number_of(frame)
        if number is None:
            raise _Uncounted
        if number in wanted and number not in found:
            found[number] = take(frame)
            if len(found) == len(wanted):
                break
    return found
