"""Time stamps of a stream, and what is done where single ones are wrong: the rest of the clock is kept.

    starts again      runs on from where it was (parts put one behind the other; MPEG-TS also where it leaps ahead)
    same one twice    the pictures share the room to their neighbours
    missing           as if it were the one before; at the beginning, evenly before the first that is known
    only in decoding order (AVI)   the n-th picture shown has the n-th time

Only a clock that is wrong for most pictures is given up (``preprocessing.media.clock``).
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

_BACK_S, _AHEAD_S = 0.1, 10.0  # the ffmpeg program takes these for a clock that was set anew


class RunningOn:
    """Corrects packets' time stamps in place, in decoding order, where the clock of the file was set anew."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        tick_s = float(stream.time_base or 1)
        # Of an MP4's edits FFmpeg has made one timeline, in which only decoding times go back.
        self._back = None if container.format.name.startswith("mov") else round(_BACK_S / tick_s)
        may_leap = container.format.flags & Flags.ts_discont.value
        self._ahead = round(_AHEAD_S / tick_s) if may_leap else None
        self._offset = 0
        self._last: int | None = None
        self._step = 0

    def correct(self, packet: av.Packet) -> None:
        """Move the packet's time stamps by what the clock was set back or ahead so far."""
        if packet.dts is not None:
            dts = packet.dts + self._offset
            if self._last is not None and not packet.is_discard:
                step = dts - self._last
                if (self._back is not None and step < -self._back) or (self._ahead is not None and step > self._ahead):
                    self._offset += self._last + (packet.duration or self._step) - dts
                    dts = packet.dts + self._offset
                elif step > 0:
                    self._step = step
            packet.dts = self._last = dts
        if packet.pts is not None:
            packet.pts += self._offset


class PictureTimes:
    """Times of a stream's pictures: made from its packets' time stamps, then asked for by each decoded picture."""

    def __init__(
        self,
        ticks: Sequence[int | None],
        tick_s: float,
        origin_s: float,
        *,
        num_leading: int = 0,
        numbered: bool = False,
    ) -> None:
        """
        Args:
            ticks: presentation time stamps in decoding order, None where one is missing; of a ``numbered`` stream
                decoding time stamps.
            num_leading: how many of those that are missing come before the first one that is known.
            tick_s: seconds of a tick.
            origin_s: time stamp, in seconds, at which times begin with 0.
            numbered: the n-th picture has the n-th of the sorted time stamps, whatever it says itself.
        """
        self._ticks = _completed(ticks, num_leading)
        self.known = sum(tick is not None for tick in ticks)
        """Pictures that have a time stamp."""
        self.distinct = len({tick for tick in ticks if tick is not None})
        """Different time stamps."""
        self.times_s = spread(self._ticks * tick_s - origin_s)
        """(N,) in presentation order, strictly increasing."""
        self.usual_s = float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.0
        """Usual interval; 0 where there is none."""
        self._numbered, self._at = numbered, -1

    def next(self, tick: int | None) -> float:
        """Time in seconds of the next decoded picture, which has this time stamp."""
        if tick is None or self._numbered:
            self._at += 1
        else:
            first, end = np.searchsorted(self._ticks, [tick, tick + 1])
            self._at = self._at + 1 if first <= self._at < end - 1 else int(first)
        last = len(self.times_s) - 1
        return float(self.times_s[min(self._at, last)]) + max(0, self._at - last) * self.usual_s


def _completed(ticks: Sequence[int | None], num_leading: int) -> np.ndarray:
    """Sorted, (N,) int64, with a value for each that is missing."""
    known = np.unique([tick for tick in ticks if tick is not None])
    if not len(known):
        return np.zeros(len(ticks), np.int64)
    usual = round(float(np.median(np.diff(known)))) if len(known) > 1 else 1
    values, previous, leading = [], int(known[0]), 0
    for tick in ticks:
        if tick is None and leading < num_leading:
            leading += 1
            values.append(int(known[0]) - usual * leading)
        else:
            previous = previous if tick is None else tick
            values.append(previous)
    return np.sort(np.array(values, np.int64))


def spread(times_s: np.ndarray) -> np.ndarray:
    """Sorted times with those that occur more than once spread over the larger of the two gaps beside them, but not
    wider than usual: a picture whose time stamp repeats its neighbour's fills the hole that this leaves.
    """
    values, first, counts = np.unique(times_s, return_index=True, return_counts=True)
    if len(values) < 2 or counts.max() == 1:
        return times_s
    gaps = np.diff(values)
    usual = float(np.median(gaps))
    spaced = times_s.astype(np.float64)
    room = np.append(gaps, usual)  # after each value
    before = np.insert(gaps, 0, 0.0)
    forward = room > 0.9 * before
    added = counts - 1
    # Into a gap come the pictures of the value before it, of the one after it, or of both.
    inside = np.where(forward, added, 0) + np.append(np.where(forward, 0, added)[1:], 0)
    for i in np.flatnonzero(added):
        gap = i if forward[i] else i - 1
        step = min(room[gap] / (inside[gap] + 1), usual)
        steps = step * np.arange(counts[i])
        spaced[first[i] : first[i] + counts[i]] = values[i] + (steps if forward[i] else steps - steps[-1])
    return spaced
