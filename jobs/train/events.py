"""Changes of a run's group of ranks: one line each in the log, in the run's ``events.jsonl`` and in MLflow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from jobs.train.control import Progress
from pipeline.common.words import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One group of ranks ended and another one went on."""

    time: str
    """When the old one ended, UTC."""
    ranks_before: int
    ranks: int
    """Of the new one; 0: there was none, the command ended."""
    why: str
    step: int
    """Step of the checkpoint from which the new one goes on, or the next command will."""
    steps_lost: int
    """Steps after that checkpoint, which are done again."""
    seconds_lost: float
    """From the old group's last step until the new one has come as far; without one, until the command ended."""

    def __str__(self) -> str:
        to = f"{self.ranks_before} -> {counted(self.ranks, 'rank')}" if self.ranks else "the ranks have ended"
        lost = f"{counted(self.steps_lost, 'step')} and {self.seconds_lost:.0f} s lost"
        return f"{to} at step {self.step}: {self.why}; {lost}"


def utc_now() -> str:
    """The time as events write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


@dataclasses.dataclass(kw_only=True)
class _Open:
    """A change that is not over: the new group has not come as far as the old one was."""

    time: str
    since_s: float
    ranks_before: int
    done: int  # steps, by the old group
    why: str
    step: int
    ranks: int = 0


class Changes:
    """Follows the groups of ranks of one command, and makes one ``Change`` of each end that others follow.

    Args:
        record: receives the changes.
        now_s: the clock of ``Progress``.
    """

    def __init__(self, record: Callable[[Change], None], now_s: Callable[[], float]) -> None:
        self._record, self._now_s = record, now_s
        self._ranks, self._step, self._begun_s = 0, 0, 0.0
        self._open: _Open | None = None

    def begin(self, ranks: int, step: int) -> None:
        """A group of so many ranks starts from the checkpoint after ``step`` steps."""
        self._ranks, self._step, self._begun_s = ranks, step, self._now_s()
        if self._open:
            self._open.ranks, self._open.step = ranks, step

    def follow(self, progress: Progress) -> None:
        """It has come so far: the change that it came with is over once it is where the old one was."""
        if self._open and progress.steps and self._step + progress.steps >= self._open.done:
            self._close(progress.last_s)

    def lose(self, progress: Progress, why: str, saved: int) -> None:
        """It has ended, and the newest checkpoint is the one after ``saved`` steps."""
        since_s = progress.last_s if progress.steps else self._begun_s
        if self._open:  # the time until now belongs to that change
            self.end()
            since_s = self._now_s()
        self._open = _Open(
            time=utc_now(),
            since_s=since_s,
            ranks_before=self._ranks,
            done=self._step + progress.steps,
            why=why,
            step=saved,
        )

    def end(self) -> None:
        """No other group follows, or the one that did ended before it was where the old one was."""
        if self._open:
            self._close(self._now_s())

    def _close(self, until_s: float) -> None:
        change, self._open = self._open, None
        if change:
            self._record(
                Change(
                    time=change.time,
                    ranks_before=change.ranks_before,
                    ranks=change.ranks,
                    why=change.why,
                    step=change.step,
                    steps_lost=max(change.done - change.step, 0),
                    seconds_lost=round(max(until_s - change.since_s, 0.0), 1),
                )
            )
