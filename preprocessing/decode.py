"""A source video, whatever it is, to small upright RGB frames at a constant rate, or to a reject with its reason.

    decoded = decode_video("clip.mp4", short_side=256)
    decoded.frames_rgb_THWC, decoded.fps

The order of work: decode one frame (one thread, so that a task is one core) -> RGB -> turn upright -> shrink -> keep
its time stamp; only small frames are kept. Then a variable frame rate is made constant.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from pipeline.errors import RejectedSource

REASONS: dict[str, str] = {
    "missing": "there is no such file",
    "unreadable": "the file cannot be opened or read",
    "empty": "the file has no bytes",
    "not_video": "FFmpeg finds no video stream in it",
    "no_frames": "there is a video stream, but no picture (in the part asked for)",
    "too_short": "fewer than 2 frames, so there is no motion",
    "decode_error": "decoding failed on the way",
    "truncated": "fewer pictures than the container announces",
    "too_large": "more pixels or frames than a task may hold",
    "bad_shape": "one side is more than 10 times the other",
    "bad_clock": "a frame rate below 0.1 or above 1000",
    "crashed": "the decoder took its process down",
}
"""The closed list of reasons a source is rejected for, counted in records and manifest."""

MAX_FRAME_PIXELS = 64 << 20  # of the source; 8K video has 33 million
MAX_KEPT_BYTES = 2 << 30  # of small frames held by one task
MAX_ASPECT = 10.0
_TRUNCATED_BELOW = 0.9  # share of the announced pictures; edit lists hide a few in sound files
# FFmpeg's fast conversion repeats chroma samples and rounds down: up to 40 levels off at coloured edges.
EXACT_COLOUR = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_MAX_DAMAGE = 0.05  # share of damaged packets: a clip that lost a picture is still a clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """Frames at a constant rate: uint8 RGB (T, H, W, 3), T >= 2, even H and W; ``fps`` > 0."""

    frames_rgb_THWC: np.ndarray
    fps: float


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) after scaling the short side to ``short_side``; the long side is rounded to even."""
    scale = short_side / min(width, height)
    fit = [short_side if side == min(width, height) else max(short_side, 2 * round(side * scale / 2)) for side in (width, height)]
    return fit[0], fit[1]


def resize_rgb(rgb_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale one picture to (width, height).

    Shrinking averages all source pixels under a target pixel (area). Bilinear or cubic sampling would skip pixels, and
    what they skip flickers from frame to frame: the flow would follow the flicker. Enlarging is bilinear.
    """
    if (rgb_HWC.shape[1], rgb_HWC.shape[0]) == size:
        return rgb_HWC
    shrinks = size[0] < rgb_HWC.shape[1]
    return cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def decode_video(
    source: str | Path | bytes,
    *,
    short_side: int,
    fps: float = 0.0,
    start_s: float | None = None,
    end_s: float | None = None,
    max_frames: int = 0,
) -> Decoded:
    """Decode a video file (path) or its bytes.

    Args:
        short_side: of the returned frames, in pixels, even. Sample aspect ratios are ignored: pixels are taken as square.
        fps: constant rate to return; 0 keeps the source's (its usual rate, or its average where it has no usual one).
        start_s, end_s: part to take, in seconds from the first picture; None: to the end of the file.
        max_frames: stop after so many returned frames; 0: no limit.

    Raises:
        RejectedSource: anything that is wrong with the source, with a reason from ``REASONS``.
    """
    if not isinstance(source, bytes):
        _check_file(Path(source))
    elif not source:
        raise RejectedSource("empty", "0 bytes")
    frames: list[np.ndarray] = []
    times: list[float] = []
    damage = _Damage()
    opened, announced, whole = False, 0.0, start_s is None and end_s is None
    # At the source's own rate max_frames pictures are enough, at another as many seconds as they last.
    limit_s = (max_frames + 1) / fps if max_frames and fps else float("inf")
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r", metadata_errors="replace") as container:
            stream = _video_stream(container)
            opened, announced = True, float(stream.average_rate or 0)
            for time_s, frame in _frames(container, stream, start_s or 0.0, end_s, damage):
                frames.append(_small_upright(frame, short_side))
                times.append(time_s)
                if len(frames) * frames[0].nbytes > MAX_KEPT_BYTES:
                    raise RejectedSource("too_large", f"more than {MAX_KEPT_BYTES >> 20} MiB of frames of {frames[0].shape[1]}x{frames[0].shape[0]}; cut the video or set max_frames")
                if time_s - times[0] > limit_s or (max_frames and not fps and len(frames) >= max_frames):
                    break
            else:
                if whole and frames and len(frames) < _TRUNCATED_BELOW * stream.frames and not damage.bad:
                    raise RejectedSource("truncated", f"{len(frames)} of {stream.frames} announced pictures")
    except av.FFmpegError as error:
        if not opened:
            raise RejectedSource("not_video", f"FFmpeg cannot open it: {error.strerror or error}") from error
        raise RejectedSource("decode_error", f"after {len(frames)} pictures: {error.strerror or error}") from error
    except (OSError, MemoryError) as error:
        raise RejectedSource("unreadable", str(error)) from error
    if damage.bad > _MAX_DAMAGE * damage.packets or (damage.bad and not frames):
        raise RejectedSource("decode_error", f"{damage.bad} of {damage.packets} packets are damaged; first: {damage.first}")
    if not frames:
        raise RejectedSource("no_frames", "the video stream has no picture" if whole else f"no picture from {start_s} s to {end_s} s")
    if len(frames) < 2:
        raise RejectedSource("too_short", "1 picture")
    picks, rate = constant_rate(np.array(times), announced, fps)
    if not 0.1 <= rate <= 1000:
        raise RejectedSource("bad_clock", f"{rate:g} frames per second")
    picks = picks[:max_frames] if max_frames else picks
    if len(picks) < 2:
        raise RejectedSource("too_short", f"{len(picks)} picture at {rate:g} fps")
    if len(picks) * frames[0].nbytes > MAX_KEPT_BYTES:
        raise RejectedSource("too_large", f"{len(picks)} frames at {rate:g} fps")
    return Decoded(frames_rgb_THWC=np.stack([frames[i] for i in picks]), fps=rate)


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise RejectedSource("missing", "not a file" if path.exists() else "no such file")
        if path.stat().st_size == 0:
            raise RejectedSource("empty", "0 bytes")
    except OSError as error:
        raise RejectedSource("unreadable", str(error)) from error


def _video_stream(container: InputContainer) -> VideoStream:
    # A sound file's cover picture is a video stream of one frame that says it is attached.
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_count, stream.thread_type = 1, "NONE"
            return stream
    raise RejectedSource("not_video", f"streams: {[s.type for s in container.streams] or 'none'}")


@dataclasses.dataclass
class _Damage:
    """Packets seen in the part asked for, and those that failed or gave a picture that FFmpeg calls corrupt."""

    packets: int = 0
    bad: int = 0
    first: str = ""

    def add(self, what: str) -> None:
        self.bad += 1
        self.first = self.first or what


def _frames(container: InputContainer, stream: VideoStream, start_s: float, end_s: float | None, damage: _Damage) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures in presentation order with their times in seconds from the start of the stream, NaN where there is none."""
    tick_s = float(stream.time_base or 1)
    origin_s = float(stream.start_time or 0) * tick_s
    slack_s = 0.25 / float(stream.average_rate) if stream.average_rate else 0.01  # times are rounded to the container's tick
    if start_s > 0 and stream.time_base is not None:
        container.seek(int((start_s + origin_s) / tick_s), stream=stream)  # to the keyframe before
    for packet in container.demux(stream):
        damage.packets += packet.size > 0
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError as error:  # go on: the next keyframe mends it
            damage.add(error.strerror or str(error))
            continue
        for frame in pictures:
            time_s = frame.time - origin_s if frame.time is not None else float("nan")
            if time_s < start_s - slack_s:
                damage.packets -= 1
                continue
            if end_s is not None and time_s >= end_s - slack_s:
                return
            if frame.is_corrupt:
                damage.add(f"corrupt picture at {time_s:.2f} s")
            yield time_s, frame


def _small_upright(frame: av.VideoFrame, short_side: int) -> np.ndarray:
    width, height = frame.width, frame.height
    if width * height > MAX_FRAME_PIXELS:
        raise RejectedSource("too_large", f"pictures of {width}x{height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RejectedSource("bad_shape", f"pictures of {width}x{height}")
    small = resize_rgb(frame.to_ndarray(format="rgb24", interpolation=EXACT_COLOUR), stored_size(width, height, short_side))
    # The display matrix turns by multiples of 90 degrees, counter-clockwise; other angles are left as they are.
    return np.rot90(small, round(frame.rotation / 90) % 4)


def constant_rate(times_s: np.ndarray, announced_fps: float, fps: float = 0.0) -> tuple[np.ndarray, float]:
    """Which frames to show at a constant rate: (indices, frames per second).

    Frame k of the result is the last one whose time is at or before k / fps. The rate, where none is asked for:
    where 90 % of the intervals agree (a constant rate, perhaps with a few frames dropped), the usual one, so that every
    frame is used once and a dropped one is filled by its predecessor; else the average.

    Args:
        times_s: (T,) in seconds, T >= 2. A clock that stops, runs backwards or is missing (NaN; B-frames in AVI) cannot
            be trusted: the pictures are then taken as evenly spaced at ``announced_fps``.
        announced_fps: the container's average rate, taken where it agrees with the times within 1 %: it is exact
            (30000/1001) where times are rounded to milliseconds.
    """
    if not np.all(np.diff(times_s) > 0):
        times_s = np.arange(len(times_s)) / (announced_fps or 25.0)
    times_s = times_s - times_s[0]
    intervals = np.diff(times_s)
    usual = float(np.median(intervals))
    # Containers round times to 1 ms or finer; 1.5 ms also covers the sum of two roundings.
    agree = np.abs(intervals - usual) <= max(0.0015, 0.05 * usual)
    if fps <= 0:
        fps = 1 / usual if agree.mean() >= 0.9 else 1 / float(intervals.mean())
        if agree.all():
            fps = 1 / float(intervals.mean())  # the mean is finer than the median of rounded intervals
        if announced_fps and abs(announced_fps / fps - 1) < 0.01:
            fps = announced_fps
        if agree.all():
            return np.arange(len(times_s)), fps
    count = max(1, round((times_s[-1] + usual) * fps))
    count = min(count, 1 + MAX_KEPT_BYTES // 768)  # a clock that jumps by years must not ask for all memory
    grid = np.arange(count) / fps + min(0.002, 0.1 / fps)
    return np.searchsorted(times_s, grid, side="right") - 1, fps
