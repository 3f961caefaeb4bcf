"""What it costs to measure a step, with no work in it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import cast

import torch

from jobs.train.metrics import RankMetrics
from pipeline.data.batch import Batch
from pipeline.training.meter import Meter
from pipeline.training.timing import StepTimes, timed
from pipeline.training.watchdog import Watchdog


class _NoLoader:
    def metrics(self) -> dict[str, float]:
        return {"requests": 1.0, "bytes": 1.0}


def metering_cost_s(log_steps: int, *, steps: int = 3000, rounds: int = 5) -> float:
    """Seconds a step of stage times, meter, curve points and Ray's endpoint, with the watchdog on; the median of some
    rounds, less what the empty loop takes. The calling process is connected to Ray.

    Args:
        log_steps: steps between two points of a curve.
    """
    times = StepTimes()
    meter = Meter(times, observe=RankMetrics("bench", 0))
    meter.begin(torch.nn.Identity(), _NoLoader(), torch.device("cpu"), 1, 0)

    def metered() -> None:
        times.begin(times.global_step)
        for step, _ in enumerate(timed(_batches(steps), times)):
            with times.measure("copy_s"):
                pass
            with times.measure("step_s"):
                pass
            meter.step_ended()
            if step % log_steps == 0:
                meter.curve()

    def empty() -> None:
        for _ in _batches(steps):
            pass

    watchdog = Watchdog(times, 600.0)
    taken = [(_seconds(lambda: watchdog.run(metered)), _seconds(empty)) for _ in range(rounds)]
    assert times.steps == rounds * steps
    return statistics.median((with_it - without) / steps for with_it, without in taken)


def _batches(steps: int) -> Iterator[Batch]:
    yield from cast(Iterator[Batch], itertools.repeat(object(), steps))  # None would be the end


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
