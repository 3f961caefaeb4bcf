"""Run many Ray tasks, a bounded number of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import ray
import ray.exceptions

Item = TypeVar("Item")
_MIN_IN_FLIGHT = 64
_BEFORE_CANCEL_S = 0.5
_TASKS_PER_CORE = 4  # a core that finishes a task finds the next one submitted


def run_tasks(
    items: Iterable[Item],
    submit: Callable[[Item], Any],
    *,
    in_flight: int | None = None,
    again: deque[Item] | None = None,
    waiting: Callable[[], None] | None = None,
    waiting_s: float = 2.0,
    force_cancel: bool = False,
) -> Generator[tuple[Item, Any]]:
    """Submit a task for every item and yield each item with its task's outcome, in the order in which tasks end.

    The outcome is what the task returned, or the ``RayError`` that it ended with: whether that ends the run is for the
    consumer to decide. Closing the generator, or an error in it, cancels the tasks in flight: consume it under
    ``contextlib.closing``.

    Args:
        items: taken one by one as there is room, so that a plan of a million is not handed to Ray at once.
        submit: starts the task of an item and returns its object reference.
        in_flight: most tasks submitted and not ended; None: 4 a core of the connected cluster, at least 64.
        again: items to submit (again), before the rest of ``items``. The consumer may append while this runs.
        waiting: called after every wait, at least every ``waiting_s`` seconds: to show progress.
        force_cancel: kill the workers of cancelled tasks instead of interrupting them.
    """
    most = in_flight or 0
    again = deque() if again is None else again
    rest = iter(items)
    running: dict[Any, Item] = {}
    try:
        while True:
            while not most or len(running) < most:
                try:
                    item = again.popleft() if again else next(rest)
                except StopIteration:
                    break
                # Asked here, because without items there need be no cluster.
                most = most or max(_MIN_IN_FLIGHT, _TASKS_PER_CORE * int(ray.cluster_resources().get("CPU", 0)))
                running[submit(item)] = item
            if not running:
                return
            ended, _ = ray.wait(list(running), num_returns=1, timeout=waiting_s if waiting else None)
            if waiting:
                waiting()
            for task in ended:
                item = running.pop(task)
                try:
                    outcome = ray.get(task)
                except ray.exceptions.RayError as error:
                    outcome = error
                yield item, outcome
    finally:
        if running:
            # Ray aborts the whole process where a cancel meets the end of its task ("task that was not pending"), and
            # what stops a run is often that a task has ended: after another end, or half a second, none is as likely.
            ray.wait(list(running), num_returns=1, timeout=_BEFORE_CANCEL_S)
        for task in running:
            if not ray.wait([task], timeout=0)[0]:  # the one that has just ended is the likeliest to abort it
                ray.cancel(task, force=force_cancel)
