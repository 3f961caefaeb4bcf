"""The time from a command to its first step, in parts that add up."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Startup:
    """Collects the moments at which one part of the start ends and the next begins; seconds since 1970, of the clocks
    of two hosts where the driver runs on another one.

    Args:
        began_s: when the command, or a later attempt of it, began.
        marks: what has been reached already, in order: (part, end).
    """

    def __init__(self, began_s: float, marks: Sequence[tuple[str, float]] = ()) -> None:
        self._began_s, self._marks = began_s, list(marks)

    def mark(self, part: str, end_s: float | None = None) -> None:
        """``part`` has ended, now or at ``end_s``."""
        self._marks.append((part, time.time() if end_s is None else end_s))

    def parts(self) -> dict[str, float]:
        """Seconds of each part, in order. A part that ended before the one ahead of it took no time."""
        found, last_s = {}, self._began_s
        for part, end_s in self._marks:
            found[part] = max(0.0, end_s - last_s)
            last_s = max(last_s, end_s)
        return found

    def __str__(self) -> str:
        parts = self.parts()
        shown = ", ".join(f"{part} {seconds:.1f}" for part, seconds in parts.items())
        return f"the first step was done after {sum(parts.values()):.1f} s ({shown})"
