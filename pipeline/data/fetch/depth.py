"""How many ranged GETs to keep in flight: Little's law, corrected by how long the decoder waits.

In flight = arrivals per second x seconds a GET takes. While the decoder never waits, the arrivals needed are what it
consumes, so the law gives the depth that keeps up with it. While it waits, it consumes what arrives, and the law would
only return the present depth: then the depth grows by one for each sample that was waited for, which doubles it with
each round of GETs.
"""

from __future__ import annotations

import math

_START = 4
_MIN_WAIT_S = 0.0005  # handing over a sample that is ready takes less
_IDLE_SHARE = 0.02  # of its time the decoder may wait before that counts as a shortage
_SLACK = 1.5  # GETs differ in length: the mean alone would run dry at every long one
_SMOOTH = 1 / 16  # share of the newest GET in the mean duration


class Depth:
    """The number of GETs to keep in flight, 1..``maximum``. No clock and no thread of its own; one lock must guard its
    calls.

    Args:
        maximum: never more than this.
        burst: samples that the decoder takes at once (its batch); its rate is averaged over more than that.
    """

    def __init__(self, maximum: int, burst: int) -> None:
        self.value = min(_START, maximum)
        self._maximum, self._period = maximum, max(16, 2 * burst)
        self._get_s = 0.0
        self._began_s, self._taken, self._waited_s = math.nan, 0, 0.0

    @property
    def get_s(self) -> float:
        """Mean duration of the last GETs."""
        return self._get_s

    def arrived(self, get_s: float) -> None:
        """A GET ended that took ``get_s``."""
        self._get_s = self._get_s + _SMOOTH * (get_s - self._get_s) if self._get_s else get_s

    def taken(self, now_s: float, waited_s: float, queued: int) -> None:
        """The decoder took a sample.

        Args:
            now_s: the time, of any monotonic clock.
            waited_s: how long it had to wait for it.
            queued: requested samples whose GET had not begun when it began to wait. Where there are none, the depth is
                not the limit (a slow GET is, or the bound on bytes), and a larger one would not help.
        """
        if waited_s > _MIN_WAIT_S and queued:
            self.value = min(self._maximum, self.value + 1)
        if math.isnan(self._began_s):
            self._began_s = now_s  # the first sample only starts the clock: before it there was nothing to consume
            return
        self._taken += 1
        self._waited_s += waited_s
        elapsed_s = now_s - self._began_s
        if self._taken < self._period or elapsed_s <= 2 * self._get_s:
            return
        if self._waited_s < _IDLE_SHARE * elapsed_s:
            wanted = 1 + math.ceil(_SLACK * self._taken / elapsed_s * self._get_s)
            if self.value > wanted:
                self.value -= max(1, (self.value - wanted) // 2)
        self._began_s, self._taken, self._waited_s = now_s, 0, 0.0
