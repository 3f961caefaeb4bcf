"""A source video, whatever it is, to small upright RGB frames at a constant rate, or to a reject with its reason.

    with VideoReader("clip.mp4", short_side=256) as video:
        for frame_rgb_HWC in video:                 # one at a time: an hour of video takes no more memory than a second
            ...
    decoded = decode_video("clip.mp4", short_side=256)    # all at once, for short clips

The order: choose the stream; read the packets' time stamps (the rate must be known before the first frame is encoded);
then decode (one thread, so that a task is one core) -> RGB -> shrink -> turn upright -> show at a constant rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from pipeline.errors import RejectedSource
from preprocessing.media.clock import Clock, Resampler
from preprocessing.media.packets import check_file
from preprocessing.media.pictures import Damage, decoded_pictures
from preprocessing.media.resize import Resizer
from preprocessing.media.scan import scan
from preprocessing.media.streams import choose_stream, open_stream

REASONS: dict[str, str] = {
    "missing": "there is no such file",
    "unsafe_path": "the listed path leads out of the source folder",
    "unreadable": "the file cannot be opened or read",
    "empty": "the file has no bytes",
    "not_video": "FFmpeg finds no video stream in it",
    "not_picture": "it is no JPEG, PNG or WebP picture, or an animated one",
    "no_frames": "there is a video stream, but no picture (in the requested part)",
    "too_short": "fewer than 2 frames, so there is no motion",
    "decode_error": "decoding failed before the end",
    "truncated": "the pictures end before the length that the container announces",
    "too_large": "more pixels than a task may keep in memory, or far more bytes than it has in its archive",
    "bad_shape": "one side is more than 10 times the other",
    "bad_clock": "a frame rate below 0.1 or above 1000, or gaps that only copies could fill",
    "crashed": "the decoder crashed its process",
}
"""The closed list of reasons a source is rejected for, counted in records and manifest."""

MAX_KEPT_BYTES = 2 << 30  # of small frames held by decode_video
_TRUNCATED_BELOW = 0.9  # share of the announced length
_MAX_DAMAGE = 0.05  # share of damaged packets: a clip that lost a picture is still a clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """Frames at a constant rate: uint8 RGB (T, H, W, 3), T >= 2, even H and W; ``fps`` > 0."""

    frames_rgb_THWC: np.ndarray
    fps: float


class VideoReader:
    """Frames of a video file (path) or of its bytes, one at a time.

    Iterating gives uint8 RGB (H, W, 3) frames of one size, even H and W, at the constant rate ``fps``; a picture that
    is shown twice is the same object twice. What is wrong with a source may show only at its end (a file that was cut
    off): then the last step of the iteration raises, and what came before must be discarded.

    Args:
        short_side: of the frames, in pixels, even.
        fps: constant rate to return; 0 keeps the source's (its usual rate, or its average where it has no usual one).
        start_s, end_s: part to take, in seconds of the file's clock (see ``preprocessing.media.streams``); None: to the
            end.
        max_frames: stop after so many frames; 0: no limit.
        square_pixels: stretch pictures whose pixels are not square to the shape in which they are shown; False takes
            pixels as they are coded, square or not.

    Raises:
        RejectedSource: anything that is wrong with the source, with a reason from ``REASONS``.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        short_side: int,
        fps: float = 0.0,
        start_s: float | None = None,
        end_s: float | None = None,
        max_frames: int = 0,
        square_pixels: bool = False,
    ) -> None:
        if not isinstance(source, bytes):
            check_file(Path(source))
        elif not source:
            raise RejectedSource("empty", "0 bytes")
        self._max_frames = max_frames
        self._start_s, self._end_s = start_s or 0.0, end_s
        self._part = (
            ""
            if start_s is None and end_s is None
            else f" from {self._start_s:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"
        )
        self.decoded_frames = 0  # pictures taken from the source so far
        self._scan = scan(source, choose_stream(source), self._start_s, end_s)
        self._check_packets()
        self._clock = Clock.of_times(self._scan.part_s, self._scan.announced_fps, fps)
        self._container, self._stream = open_stream(source, self._scan.index)
        self._resizer = Resizer(
            short_side, self._stream.sample_aspect_ratio or Fraction(1), square_pixels=square_pixels
        )

    @property
    def fps(self) -> float:
        """Constant rate of the frames."""
        return self._clock.fps

    @property
    def length_announced(self) -> bool:
        """Whether the file tells its length (or goes on behind the part), so that it is known not to be cut."""
        return self._scan.whole or self._scan.passed

    @property
    def pixel_aspect(self) -> Fraction:
        """Width over height of a pixel of the source's pictures, upright once the first picture was taken."""
        return self._resizer.pixel_aspect

    @property
    def source_size(self) -> tuple[int, int] | None:
        """(width, height) of the source's pictures, upright; None before the first picture."""
        return self._resizer.source_size

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        num_shown = 0
        for frame in self._resampled():
            yield frame
            num_shown += 1
            if num_shown == self._max_frames:
                break
        if num_shown < 2:
            raise RejectedSource("too_short", f"{num_shown} picture{self._part}")

    def _resampled(self) -> Iterator[np.ndarray]:
        """Pictures, each as often as it is shown; looks at the damage when the source has ended."""
        resampler, damage = Resampler(self._clock), Damage()
        last: np.ndarray | None = None
        last_s = self._start_s
        pictures = decoded_pictures(
            self._container, self._stream, self._scan, self._start_s, self._end_s, damage, self._clock.source_fps
        )
        try:
            for last_s, frame in pictures:
                small = self._resizer(frame)
                for _ in range(resampler.push(last_s)):
                    yield last  # type: ignore[misc]  # push gives 0 for the first picture
                last = small
                self.decoded_frames += 1
        except av.FFmpegError as error:
            raise RejectedSource(
                "decode_error", f"after {self.decoded_frames} pictures: {error.strerror or error}"
            ) from error
        if damage.inside > _MAX_DAMAGE * damage.packets or (damage.bad and last is None):
            raise RejectedSource(
                "decode_error", f"{damage.bad} of {damage.packets} packets are damaged; first: {damage.first}"
            )
        if last is None:
            raise RejectedSource(
                "no_frames", f"no picture{self._part}" if self._part else "the video stream has no picture"
            )
        if not self._scan.trusted:
            self._check_end(last_s + 1 / self._clock.source_fps)
        for _ in range(resampler.finish()):
            yield last

    def _check_packets(self) -> None:
        """Refuse a file that was cut off, or a part without pictures, before anything is decoded."""
        if self._scan.trusted:
            self._check_end(self._scan.last_s)
        if not len(self._scan.part_s):
            raise RejectedSource("no_frames", f"no picture{self._part}")

    def _check_end(self, ends_s: float) -> None:
        """Refuse a file, or part, that ends here where more of it is announced."""
        found = self._scan
        if found.announced_end_s is None or found.passed:
            return
        start_s = self._start_s if self._start_s > 0 or not found.trusted else float(found.times.times_s[0])
        whole_s = min(found.announced_end_s, self._end_s if self._end_s is not None else math.inf) - start_s
        is_s = max(ends_s, found.others_end_s) - start_s
        if whole_s > 0 and is_s + found.times.usual_s < _TRUNCATED_BELOW * whole_s:
            num_pictures = self.decoded_frames or len(found.part_s)
            raise RejectedSource(
                "truncated",
                f"{max(0.0, is_s) / whole_s:.0%} of the announced {whole_s:.2f} s{self._part}: {num_pictures} pictures",
            )


def decode_video(
    source: str | Path | bytes,
    *,
    short_side: int,
    fps: float = 0.0,
    start_s: float | None = None,
    end_s: float | None = None,
    max_frames: int = 0,
    square_pixels: bool = False,
) -> Decoded:
    """All frames of a video at once; arguments as ``VideoReader``.

    Raises:
        RejectedSource: anything that is wrong with the source; ``too_large`` where its frames would take more than 2
            GiB.
    """
    frames: list[np.ndarray] = []
    with VideoReader(
        source,
        short_side=short_side,
        fps=fps,
        start_s=start_s,
        end_s=end_s,
        max_frames=max_frames,
        square_pixels=square_pixels,
    ) as video:
        for frame in video:
            frames.append(frame)
            if len(frames) * frame.nbytes > MAX_KEPT_BYTES:
                raise RejectedSource(
                    "too_large",
                    f"more than {MAX_KEPT_BYTES >> 20} MiB of frames of {frame.shape[1]}x{frame.shape[0]}; cut the"
                    " video or set max_frames",
                )
    return Decoded(frames_rgb_THWC=np.stack(frames), fps=video.fps)
