"""Ends a rank whose step hangs, with an error that says what all ranks wait for.

    watchdog = Watchdog(times.progress, limit_s=600, reports=HangReports(...))
    watchdog.run(lambda: train(...))

``run`` gives the work a thread of its own and watches it: a thread that hangs in a request, a decoder, a kernel or a
collective cannot be made to raise, so the watching one raises instead and leaves the other behind, to end with the
process. Every rank whose step hangs reports first (``pipeline.training.hang``); which one the others wait for follows
from all reports.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from pipeline.errors import StepTimeoutError
from pipeline.training.hang import Hang, HangReports, describe, place_of
from pipeline.training.timing import StepTimes

T = TypeVar("T")
_TICK_S = 1.0
_COMPILING = 3  # torch.compile works in the first step
_COLLECTIVE_S, _MARGIN_S = 600, 120


def collective_limit_s(step_timeout_s: float, compiles: bool) -> int:
    """Longest wait in a collective operation, in seconds: longer than the watchdog's limit, so that the watchdog, which
    can say what hangs, speaks first.
    """
    longest = step_timeout_s * (_COMPILING if compiles else 1)
    return max(_COLLECTIVE_S, int(longest + _MARGIN_S))


class Watchdog:
    """Watches one rank.

    Args:
        times: of the training thread.
        limit_s: longest time without a finished batch, checkpoint or validation, once training has begun. Time in which
            the whole process stood still (it was stopped, its host slept) does not count, nor do checkpoints, which
            have limits of their own. 0: no limit, and no thread.
        compiles: the first step may take three times as long.
    """

    def __init__(self, times: StepTimes, limit_s: float, *, compiles: bool = False) -> None:
        self._times, self._limit_s, self._compiles = times, limit_s, compiles
        self.reports: HangReports | None = None
        """Where this rank reports; without it the error tells of this rank alone."""
        self.waiting_for: Callable[[], str] = str
        """What holds up the next batch, as far as it is known."""

    def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread of its own; returns what it returns and raises what it raises.

        Raises:
            StepTimeoutError: it hangs. Its thread is left behind.
        """
        if not self._limit_s:
            return work()
        ended: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        context = contextvars.copy_context()
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # of this thread

        def do() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)
                ended.put((context.run(work), None))
            except BaseException as error:  # raised again by the watching thread
                ended.put((None, error))

        thread = threading.Thread(target=do, name="training", daemon=True)
        thread.start()
        tick_s = min(_TICK_S, self._limit_s / 10)
        idle_s, seen, last_s = 0.0, 0.0, time.monotonic()
        while True:
            try:
                value, error = ended.get(timeout=tick_s)
            except queue.Empty:
                now_s = time.monotonic()
                progress = self._times.progress
                if progress.since_s != seen or not progress.since_s or progress.stage == "checkpoint_s":
                    idle_s, seen = 0.0, progress.since_s
                else:
                    idle_s += min(now_s - last_s, 2 * tick_s)  # more: this process did not run
                last_s = now_s
                if idle_s >= self._allowed_s():
                    raise self._error(thread, idle_s) from None
                continue
            if error is not None:
                raise error
            return cast(T, value)

    def _allowed_s(self) -> float:
        return self._limit_s * (_COMPILING if self._compiles and not self._times.steps else 1)

    def _error(self, thread: threading.Thread, idle_s: float) -> StepTimeoutError:
        place = place_of(thread.ident or 0)
        hang = Hang(
            step=self._times.global_step,
            stage=self._times.progress.stage,
            seconds=round(idle_s, 1),
            place=place.where,
            in_backward=place.in_backward,
            in_collective=place.in_collective,
            waiting_for=self.waiting_for() if self._times.progress.stage == "wait_s" else "",
        )
        hangs, where = self.reports.exchange(hang, self._limit_s) if self.reports else ({0: hang}, "")
        nodes = self.reports.nodes if self.reports else [""]
        return StepTimeoutError(describe(hangs, nodes, limit_s=self._allowed_s(), where=where))
