"""The clock of a video: which pictures to show at a constant rate, decided one picture at a time.

A clip may be hours long, so its pictures are never all in memory. The rate is decided beforehand from the packets' time
stamps (``Clock.of_times``); ``Resampler`` then decides, picture by picture, how often each is shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipeline.errors import RejectedSource

_DEFAULT_FPS = 25.0  # of a video whose clock cannot be trusted and whose container gives no rate
_MAX_REPEATS = 100  # shown pictures for every decoded one: a slide show at 4 s a slide and 25 fps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """How to turn time stamps into a constant rate."""

    fps: float
    """Frames per second of the result."""
    usual_s: float
    """Usual interval between two pictures, in seconds: how long the last one lasts."""
    source_fps: float
    """Rate that replaces time stamps that cannot be trusted."""
    trusted: bool
    """Whether time stamps run forward; otherwise pictures are evenly spaced at ``source_fps``."""
    every: bool
    """Whether all intervals agree, so that every picture is shown exactly once."""

    @classmethod
    def of_times(cls, times_s: Sequence[float] | np.ndarray, announced_fps: float, fps: float = 0.0) -> Clock:
        """Decide rate and rule from the pictures' times.

        The rate, if none is asked for: if 90 % of the intervals agree (a constant rate, perhaps with a few frames
        dropped), the usual one, so that every frame is used once and a dropped one is filled by its predecessor; else
        the average.

        Args:
            times_s: (T,) in seconds, in presentation order. A clock that stops, runs backwards or is missing (NaN)
                cannot be trusted: pictures are then evenly spaced at ``announced_fps``. Single faults are repaired
                before (``preprocessing.media.stamps``).
            announced_fps: the container's average rate, used if it agrees with the times within 1 %: it is exact
                (30000/1001) where times are rounded to milliseconds.
            fps: rate asked for; 0: the source's own.

        Raises:
            RejectedSource: ``bad_clock``: a rate outside 0.1..1000, or gaps that would be filled by thousands of
                copies.
        """
        times = np.asarray(times_s, np.float64)
        intervals = np.diff(times)
        source_fps = announced_fps if announced_fps > 0 else _DEFAULT_FPS
        trusted = bool(np.all(intervals > 0))  # NaN is not above 0
        if not trusted or not len(intervals):
            intervals = np.full(max(1, len(times) - 1), 1 / source_fps)
        usual = float(np.median(intervals))
        # Containers round times to 1 ms or finer; 1.5 ms also covers the sum of two roundings.
        agree = np.abs(intervals - usual) <= max(0.0015, 0.05 * usual)
        rate = fps
        if fps <= 0:
            # The mean is finer than the median of rounded intervals.
            rate = 1 / float(intervals.mean()) if agree.all() or agree.mean() < 0.9 else 1 / usual
            if announced_fps and abs(announced_fps / rate - 1) < 0.01:
                rate = announced_fps
        if not 0.1 <= rate <= 1000:
            raise RejectedSource("bad_clock", f"{rate:g} frames per second")
        shown = (float(intervals.sum()) + usual) * rate
        if shown > _MAX_REPEATS * (len(times) + 1):
            raise RejectedSource(
                "bad_clock", f"{len(times)} pictures in {intervals.sum():.0f} s: most of {rate:g} fps would be copies"
            )
        return cls(
            fps=rate, usual_s=usual, source_fps=source_fps, trusted=trusted, every=fps <= 0 and bool(agree.all())
        )


class Resampler:
    """Counts how often each picture is shown. Frame k of the result is the picture whose time is nearest to k / fps,
    the earlier of two that are equally near; but no picture is shown more than half a usual interval before its time,
    so that one before a gap stays.

    Nearest, because flow needs it: times of phones and screen recorders tremble by some milliseconds around a constant
    rate, and "the last picture at or before k / fps" would then repeat every fourth to sixth (flow is zero there, and
    doubled in the next pair) where the nearest repeats none.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slack_s = min(0.002, 0.1 / clock.fps)  # times are rounded to the container's tick
        self._first_s = math.nan
        self._last_s = math.nan  # time of the picture that came last, from the first one's
        self._pictures = 0
        self._shown = 0

    def push(self, time_s: float) -> int:
        """Take the next picture's time in seconds; returns how often its predecessor is shown (0 for the first
        call).
        """
        clock, previous = self._clock, self._last_s
        if self._pictures == 0:
            self._first_s = time_s
        now = time_s - self._first_s if clock.trusted else self._pictures / clock.source_fps
        self._pictures += 1
        if self._pictures == 1:
            self._last_s = 0.0
            return 0
        if not now > previous:  # one bad stamp in a good clock
            now = previous + clock.usual_s
        self._last_s = now
        if clock.every:  # a picture that was lost to damage is filled by its predecessor
            return self._show(max(1, round((now - previous) * clock.fps)))
        change = now - min(now - previous, clock.usual_s) / 2
        return self._show(math.floor((change + self._slack_s) * clock.fps) + 1 - self._shown)

    def finish(self) -> int:
        """How often the last picture is shown."""
        if self._pictures == 0:
            return 0
        if self._clock.every:
            return self._show(1)
        return self._show(max(1, round((self._last_s + self._clock.usual_s) * self._clock.fps)) - self._shown)

    def _show(self, count: int) -> int:
        count = max(0, count)
        if self._shown + count > 1000 + 2 * _MAX_REPEATS * self._pictures:
            raise RejectedSource("bad_clock", f"picture {self._pictures} comes after {self._last_s:.0f} s")
        self._shown += count
        return count
