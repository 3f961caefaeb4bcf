"""What ``jobs.bench loader`` times: the same training clips through several loaders, in turns.

A measurement covers what a contender delivers in its steady state, after its warm-up: caches, buffers and queues are
full, and there is more work to come when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jobs.bench.loader.workload import WARM_STEPS, Workload, check_keys, read_members
from pipeline.data.decoding.base import Decoder, Row
from pipeline.data.decoding.factory import make_decoder
from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.fetch.read import FetchMetrics
from pipeline.data.loader import Loader
from pipeline.data.sampling.order import epoch_order
from pipeline.errors import ReciprocalError


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One contender's steady state."""

    clips: int
    seconds: float
    cpu_s: float
    """CPU seconds of this process and its children: other load on the machine hardly changes them."""
    waits: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the loader counted meanwhile."""

    @property
    def clips_per_s(self) -> float:
        return self.clips / self.seconds


class Clock:
    """Started when it is made."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), _cpu_s()

    def read(self) -> tuple[float, float]:
        """Seconds on the wall and on CPUs since the start."""
        return time.perf_counter() - self._wall_s, _cpu_s() - self._cpu_s


def _cpu_s() -> float:
    """CPU seconds of this process and of its live children (Linux; elsewhere its own)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system
    return total


def time_ours(loader: Loader, workload: Workload, check: Callable[[dict[str, Any]], None]) -> Measurement:
    """The same first batches of epoch 0 again, fetched again. ``check`` gets the first of them at the end."""
    with contextlib.closing(loader.iter_epoch(0)) as batches:  # type: ignore[type-var]
        first = next(batches)
        for _ in range(WARM_STEPS - 1):
            next(batches)
        before, clock, clips = loader.metrics(), Clock(), 0
        for _ in range(workload.steps):
            clips += int(next(batches).weights.sum())
        times, after = clock.read(), loader.metrics()
    check({"key": list(first.keys), **{m: x.cpu() for m, x in first.inputs.items()}})
    return Measurement(clips, *times, {name: after[name] - before[name] for name in after})


class InMemory:
    """The batches of ours, their bytes and plans ready in memory: what decoders are timed on alone."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._batches = workload, workload.batches()
        members = read_members(workload, {int(i) for batch in self._batches for i in batch})
        self._rows = {
            int(i): workload.row(int(i), members[workload.index.key(int(i))]) for batch in self._batches for i in batch
        }

    def decoder(self, loader: str) -> Decoder:
        """A decoder for these batches; ``loader`` as in DataConfig. ConfigError where it cannot be had."""
        workload = self._workload
        data = dataclasses.replace(workload.data, decoder=loader)  # type: ignore[arg-type]
        return make_decoder(
            data,
            workload.clip,
            workload.index.modalities,
            workload.index.flow_bound_px,
            max_rows=workload.batch_size,
            device=workload.device,
            device_id=0,
        )

    def rows(self, step: int) -> list[Row]:
        """Of one batch."""
        return [self._rows[int(i)] for i in self._batches[step]]

    def time(self, decoder: Decoder) -> Measurement:
        """Decode the batches that ours delivers while it is measured."""
        clock = Clock()
        for step in range(len(self._batches)):
            if step == WARM_STEPS:
                clock = Clock()
            decoder.decode(self.rows(step))
        return Measurement(sum(len(b) for b in self._batches[WARM_STEPS:]), *clock.read())


def time_baseline(
    baseline: Iterable[dict[str, Any]], workload: Workload, check: Callable[[dict[str, Any]], None]
) -> Measurement:
    """A whole pass of the baseline; its middle counts.

    Args:
        check: gets the first batch, when the pass is over.

    Raises:
        ReciprocalError: the pass did not hold every sample as often as the workload says.
    """
    keys: list[str] = []
    first: dict[str, Any] = {}
    warm, clips, clock, times = 2 * workload.threads, 0, Clock(), (0.0, 0.0)
    for number, batch in enumerate(baseline):
        keys += batch["key"]
        first = first or batch
        if warm <= number < warm + workload.steps:
            clips += len(batch["key"])
        if number == warm - 1:
            clock = Clock()
        elif number == warm + workload.steps - 1:
            times = clock.read()
    check_keys(keys, workload)
    check(first)
    return Measurement(clips, *times)


def time_fetching(workload: Workload, depth: int, requests: int) -> dict[str, float]:
    """Ranged GETs and checksums alone, up to ``depth`` in flight: what one rank's Python side can take in."""
    metrics, warm = FetchMetrics(), 4 * depth
    indices = [int(i) for i in epoch_order(len(workload.index), workload.seed, 0, shuffle=True)]
    wanted = [indices[k % len(indices)] for k in range(requests + warm)]
    fetcher = Fetcher(workload.storage, depth, workload.data.fetch_deadline_s, metrics, burst=workload.batch_size)
    try:
        arrived = fetcher.iterate(workload.index.sample_range(i) for i in wanted)
        for _ in range(warm):  # connections are made, and the depth has grown
            next(arrived)
        bytes_before, gets_before, clock = metrics.bytes, metrics.requests, Clock()
        for sample in arrived:
            if isinstance(sample, Damaged):
                raise ReciprocalError(f"sample {sample.key} in {sample.tar} is damaged: {sample.detail}")
        seconds, cpu_s = clock.read()
        gets = metrics.requests - gets_before  # fewer than the samples: some had arrived before
    finally:
        fetcher.close()
    return {
        "clips_per_s": gets / seconds,
        "mb_per_s": (metrics.bytes - bytes_before) / seconds / 1e6,
        "cpu_ms_per_get": 1000 * cpu_s / gets,
    }


def interleave(
    contenders: dict[str, Callable[[], Measurement]], rounds: int, done: Callable[[str], None]
) -> dict[str, list[Measurement]]:
    """Every contender's measurements, one in every round, so that other load on the machine slows all of them."""
    measurements: dict[str, list[Measurement]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            measurements[name].append(contender())
            done(name)
    return measurements
