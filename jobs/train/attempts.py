"""The attempts of a run: how many ranks each gets, what its ranks are asked for, and whether another one follows.

An attempt is one group of ranks, of a fixed number. It ends because the training is over, because the ranks left in
order when they were asked to (with a checkpoint), or with an error. Nothing here knows Ray.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Protocol

from jobs.cluster.errors import what_happened
from jobs.train.control import Progress
from jobs.train.events import Changes
from jobs.train.failures import Verdict, judge
from jobs.train.leaving import Leaving
from jobs.train.places import Cluster, wait_for_ranks
from jobs.train.ranks import Need
from pipeline.config.train import RunConfig
from pipeline.training.ask import Ask

log = logging.getLogger("jobs.train")
_LOOK_S, _NODES_S, _LONGEST_PAUSE_S = 0.5, 2.0, 31.0
_GROW_S = 5.0  # that more ranks were possible, before the group is asked to leave for them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended: with what rank 0 returned, or with an error."""

    left: bool = False
    """The ranks left because they were asked to."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""
    error: BaseException | None = None


class Group(Protocol):
    """The ranks of one attempt."""

    def wait(self, seconds: float) -> Ended | None: ...
    def progress(self) -> Progress: ...
    def wish(self, ask: Ask) -> None: ...
    def kill(self) -> None: ...


class Attempts:
    """Runs attempts until the training is over.

    Args:
        need: ranks, and what each of them takes.
        cluster: where.
        start: starts the ranks of an attempt, given its number from 1 and the number of ranks.
        saved: steps of the newest checkpoint; 0 where there is none.
        changes: are told of every change of the group.
        check: called often; may raise.
    """

    def __init__(
        self,
        need: Need,
        cluster: Cluster,
        start: Callable[[int, int], Group],
        *,
        saved: Callable[[], int],
        changes: Changes,
        leaving: Leaving,
        check: Callable[[], None],
        limits: RunConfig,
    ) -> None:
        self._need, self._cluster, self._start = need, cluster, start
        self._saved, self._changes, self._leaving, self._check = saved, changes, leaving, check
        self._limits = limits
        self._no_place_since_s = 0.0
        self._failures, self._last = 0, (-1, "")  # in a row; steps of the checkpoint and kind of the last one

    def run(self) -> Ended:
        """How the last attempt ended, which is no error.

        Raises:
            KeyboardInterrupt: a signal came, and the ranks have left, or did not within the time.
            ConfigError: the nodes are not there.
            BaseException: the error of an attempt that stays, or of one too many.
        """
        number = 0
        while True:
            number += 1
            ranks = wait_for_ranks(self._need, self._cluster, self._limits.wait_minutes, self._check_all)
            from_step = self._saved()
            self._changes.begin(ranks, from_step)
            group = self._start(number, ranks)
            watch = _Watch(self._need, self._cluster, group, ranks, self._saved)
            ended = self._follow(group, watch)
            self._changes.follow(group.progress())
            if group.progress().steps:
                self._no_place_since_s = 0.0
            if ended.error is None and not ended.left:
                self._changes.end()
                return ended
            why = watch.why or (what_happened(ended.error) if ended.error else "the ranks left")
            self._changes.lose(group.progress(), why, self._saved())
            if self._leaving.signal is not None:
                self._changes.end()
                raise self._leaving.error()
            if ended.error is not None:
                self._judge(ended.error, taken=watch.taken)

    def _check_all(self) -> None:
        self._check()
        if self._leaving.signal is not None:
            self._changes.end()
            raise self._leaving.error()

    def _follow(self, group: Group, watch: _Watch) -> Ended:
        """Until the ranks have ended."""
        deadline_s = 0.0
        while (ended := group.wait(_LOOK_S)) is None:
            now_s = self._cluster.now_s()
            try:
                self._check()
                if self._leaving.signal is not None and not deadline_s:
                    deadline_s = now_s + self._limits.leave_s
                    log.info(
                        "saving a checkpoint, for up to %.0f s (run.leave_s), and leaving; the signal once more leaves"
                        " at once",
                        self._limits.leave_s,
                    )
                    watch.leave("the command was asked to end")
                if deadline_s and now_s > deadline_s:
                    log.warning("no checkpoint within %.0f s (run.leave_s): leaving without one", self._limits.leave_s)
                    raise self._leaving.error()
            except BaseException:
                group.kill()
                raise
            watch.look(now_s)
            self._changes.follow(group.progress())
        return ended

    def _judge(self, error: BaseException, *, taken: bool) -> None:
        """Return if another attempt may follow; else raise the error."""
        verdict = judge(error)
        if verdict is Verdict.STAYS:
            self._changes.end()
            raise error
        if taken or verdict is Verdict.TAKEN:
            return
        if verdict is Verdict.NO_PLACE:
            self._no_place(error)
            return
        now = (self._saved(), what_happened(error).partition(":")[0])
        self._failures = self._failures + 1 if now[0] == self._last[0] else 1
        again = verdict is Verdict.UNKNOWN and now == self._last
        self._last = now
        if again or self._failures > self._limits.max_failures:
            self._changes.end()
            raise error
        log.warning(
            "%s; going on from step %d (%d of %d in a row, run.max_failures)",
            what_happened(error),
            now[0],
            self._failures,
            self._limits.max_failures,
        )
        self._cluster.sleep(min(2.0 ** (self._failures - 1), _LONGEST_PAUSE_S) - 1)

    def _no_place(self, error: BaseException) -> None:
        now_s = self._cluster.now_s()
        self._no_place_since_s = self._no_place_since_s or now_s
        waited_s = now_s - self._no_place_since_s
        if waited_s > 60 * self._limits.wait_minutes:
            self._changes.end()
            raise error
        log.warning("the ranks found no place although the nodes seem to have room: counting again")


class _Watch:
    """Finds reasons why the ranks of one attempt should leave, and asks them to."""

    def __init__(self, need: Need, cluster: Cluster, group: Group, ranks: int, saved: Callable[[], int]) -> None:
        self._need, self._cluster, self._group, self._ranks, self._saved = need, cluster, group, ranks, saved
        self.why = ""
        self.taken = False
        """A node of theirs is being taken away."""
        self._next_s = 0.0
        self._room_since_s, self._room_step = 0.0, -1  # more ranks are possible

    def leave(self, why: str) -> None:
        """Ask them to save and leave."""
        if not self.why:
            log.info("%s: the ranks save and leave", why)
            self.why = why
        self._group.wish(Ask.LEAVE)

    def look(self, now_s: float) -> None:
        """Look at the cluster, every few seconds."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + _NODES_S
        progress, nodes = self._group.progress(), self._cluster.nodes()
        for node in nodes:
            if node.leaves_at is not None and node.id in progress.nodes and not self.taken:
                self.taken = True
                self.leave(f"{node} is being taken away")
        more = self._need.places(nodes, used=progress.nodes)
        self._grow(now_s, self._need.ranks(self._ranks + more), progress.steps)

    def _grow(self, now_s: float, possible: int, steps: int) -> None:
        """Leave at the first checkpoint after more ranks have been possible for a while: until then nothing is lost."""
        if possible <= self._ranks or not steps or self.why:
            self._room_since_s, self._room_step = 0.0, -1
            return
        self._room_since_s = self._room_since_s or now_s
        if now_s - self._room_since_s >= _GROW_S:
            newest = self._saved()
            if self._room_step < 0:
                self._room_step = newest
            elif newest > self._room_step:
                self.leave(f"there is room for {possible} ranks")
