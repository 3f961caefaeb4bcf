"""What the driver wishes of the ranks, and how far they are.

The driver holds an actor on its own node; a thread of every rank tells it each second how many steps the rank has done
and is told the wish. Ray ends the actor with its driver: ranks that it no longer answers leave.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.training.ask import Ask

log = logging.getLogger("jobs.train")
_EVERY_S, _ANSWER_S, _LAST_ANSWER_S = 1.0, 20.0, 2.0
_SILENCE_S = 60.0  # without an answer: a node's network may be away for a while


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the ranks of an attempt are."""

    nodes: frozenset[str] = frozenset()
    """Ids of the nodes that the ranks run on, as far as they have answered."""
    steps: int = 0
    """Done by the rank that is furthest."""
    first_s: float = 0.0
    """When the first step was heard of, on the monotonic clock of the driver's node."""
    last_s: float = 0.0
    """When the last one was heard of."""


class Control:
    """The actor's state. A wish is for one attempt: the next attempt starts without one."""

    def __init__(self) -> None:
        self._attempt, self._wish, self._progress = 0, Ask.NONE, Progress()

    def begin(self, attempt: int) -> None:
        """Called by the driver before it starts the ranks of an attempt."""
        self._attempt, self._wish, self._progress = attempt, Ask.NONE, Progress()

    def wish(self, ask: Ask) -> None:
        """Called by the driver."""
        self._wish = ask

    def progress(self) -> Progress:
        """Called by the driver."""
        return self._progress

    def report(self, attempt: int, node: str, steps: int) -> Ask:
        """Called by a rank; a rank of an attempt that is over is asked to leave."""
        if attempt != self._attempt:
            return Ask.LEAVE
        now, old = time.monotonic(), self._progress
        further = steps > old.steps
        self._progress = Progress(
            nodes=old.nodes | {node},
            steps=max(steps, old.steps),
            first_s=now if further and not old.steps else old.first_s,
            last_s=now if further else old.last_s,
        )
        return self._wish


def start_control() -> Any:
    """The actor, on this node, taking no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Control).options(num_cpus=0, scheduling_strategy=here).remote()


def begin_attempt(control: Any, attempt: int) -> Any:
    """Tell the actor that an attempt starts; returns it, or a new one where it has died."""
    try:
        ray.get(control.begin.remote(attempt), timeout=_ANSWER_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        log.debug("the actor that ranks ask has gone: %s", error)
        control = start_control()
        ray.get(control.begin.remote(attempt), timeout=_SILENCE_S)
    return control


class Listener:
    """A rank's side, while the block runs: calling it returns the wish, without waiting.

    Args:
        control: the actor.
        attempt: that this rank belongs to.
        steps: how many this rank has done in the attempt. Calls are no measure: an epoch's end asks once more.
    """

    def __init__(self, control: Any, attempt: int, steps: Callable[[], int]) -> None:
        self._control, self._attempt, self._steps = control, attempt, steps
        self._node = ray.get_runtime_context().get_node_id()
        self._wish = Ask.NONE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ask", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        # What was done in the last second counts, too: a rank that fails has lost it.
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            ray.get(self._control.report.remote(self._attempt, self._node, self._steps()), timeout=_LAST_ANSWER_S)

    def __call__(self) -> Ask:
        return self._wish

    def _run(self) -> None:
        answered_s = time.monotonic()
        while True:
            try:
                answer = self._control.report.remote(self._attempt, self._node, self._steps())
                self._wish, answered_s = cast(Ask, ray.get(answer, timeout=_SILENCE_S)), time.monotonic()
            except ray.exceptions.ActorDiedError:
                self._leave("has ended")
                return
            except (ray.exceptions.RayError, TimeoutError) as error:
                log.debug("no answer from the driver: %s", error)
                if time.monotonic() - answered_s > _SILENCE_S:
                    self._leave(f"has not answered for {_SILENCE_S:.0f} s")
            if self._stop.wait(_EVERY_S):
                return

    def _leave(self, why: str) -> None:
        if self._wish is not Ask.LEAVE:
            log.warning("the command that started this training %s: leaving with a checkpoint", why)
        self._wish = Ask.LEAVE
