"""Where the time of a rank's training thread goes, stage by stage, and what that thread is doing now."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from pipeline.common.timer import StageTimer
from pipeline.data.batch import Batch


class Progress:
    """What a rank's training thread is doing; written by that thread, read by its watchdog.

    Attributes:
        stage: the field of ``StepTimes`` that is being measured; "" between two of them.
        since_s: when the thread last finished a batch, a checkpoint or a validation (``time.monotonic``); 0 before
            ``begin``.
        first: for each stage when it first ended, and for ``begin`` when it was called, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.stage = ""
        self.since_s = 0.0
        self.first: dict[str, float] = {}

    def begin(self) -> None:
        """From here on, time in which nothing is finished counts."""
        self.since_s = time.monotonic()
        self.first.setdefault("begin", time.time())

    def follow(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of a validation, each of which is progress."""
        for batch in batches:
            yield batch
            self.begin()

    def enter(self, stage: str) -> None:
        self.stage = stage

    def leave(self, stage: str) -> None:
        self.stage = ""
        if stage not in ("wait_s", "copy_s"):  # those only begin the work on a batch
            self.since_s = time.monotonic()
        self.first.setdefault(stage, time.time())


@dataclasses.dataclass
class StepTimes(StageTimer):
    """Seconds of the training thread since the start; those that ``total_s`` adds up do not overlap.

    Work on a GPU counts where the host waits for it, which it does for the norm of the gradient in every step.
    """

    steps: int = 0
    wait_s: float = 0.0
    """For a batch."""
    copy_s: float = 0.0
    """Of batches to the device."""
    step_s: float = 0.0
    """Forward, backward (with the exchange of gradients) and update."""
    exchange_s: float = 0.0
    """Part of ``step_s`` in which only gradients were exchanged, or a slower rank's were waited for."""
    checkpoint_s: float = 0.0
    """Training stood still for a checkpoint; not in ``total_s``."""
    validate_s: float = 0.0
    """Not in ``total_s``."""

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.first_step = 0

    def begin(self, global_step: int) -> None:
        """The training thread begins its first step, number ``global_step`` of the run."""
        self.first_step = global_step
        self.progress.begin()

    @property
    def global_step(self) -> int:
        """The step that is under way."""
        return self.first_step + self.steps

    @property
    def total_s(self) -> float:
        return self.wait_s + self.copy_s + self.step_s

    @property
    def busy_s(self) -> float:
        """Of this rank's own work and waiting for data, without waiting for other ranks."""
        return self.total_s - min(self.exchange_s, self.step_s)

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """See ``StageTimer``; ``progress`` says meanwhile that this is being done."""
        with super().measure(stage):
            self.progress.enter(stage)
            try:
                yield
            finally:
                self.progress.leave(stage)


class ExchangeTimer:
    """Adds the time that each step only exchanged gradients to ``times.exchange_s``; 0 for a single rank.

    torch's own measurement in DistributedDataParallel: the exchange less the part that overlapped with computation. It
    tells of a step once the next has begun, so the last step's is missing.
    """

    def __init__(self, model: Any, times: StepTimes) -> None:
        self._read = getattr(model, "_get_ddp_logging_data", None)
        self._times, self._seen = times, 0
        self.measures = self._read is not None
        if self._read is not None:
            model._set_ddp_runtime_logging_sample_rate(1)  # by default one step in a hundred

    def step_ended(self) -> None:
        if self._read is None:
            return
        data = self._read()
        ended = data.get("backward_comm_time_end", 0)
        if ended != self._seen:
            self._seen = ended
            exposed_ns = data.get("backward_comm_time", 0) - data.get("backward_compute_comm_overlap_time", 0)
            self._times.exchange_s += max(0.0, exposed_ns / 1e9)


class Lap:
    """A stretch of the run: its length, and what the trainer did in it."""

    def __init__(self, times: StepTimes) -> None:
        self._times, self._start_s, self._before = times, time.perf_counter(), dataclasses.replace(times)

    def end(self) -> tuple[float, StepTimes]:
        """Seconds and times since the last end; the next lap begins."""
        now = time.perf_counter()
        lap = now - self._start_s, self._times - self._before
        self._start_s, self._before = now, dataclasses.replace(self._times)
        return lap


def timed(batches: Iterator[Batch], times: StepTimes) -> Iterator[Batch]:
    """The batches; waiting for each counts in ``times``."""
    try:
        while True:
            with times.measure("wait_s"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()  # ends the loader's threads even when a step raised
