"""One ranged GET a sample, several in flight, handed over in order; damage is found here, before any decoder.

Checksums are compared on arrival because decoders answer damage badly: some crash, some return grey pictures, and
DALI gives up its whole pipeline.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Iterator

from pipeline.errors import DamagedSampleError, StorageError
from pipeline.shards import SampleRecord, split_members
from pipeline.storage import Storage

log = logging.getLogger(__name__)

_JOIN_S = 5.0


@dataclasses.dataclass(frozen=True)
class Request:
    """A sample to read: its record (the members that are wanted) and its tar's path."""

    tar: str
    record: SampleRecord


@dataclasses.dataclass(frozen=True)
class Damaged:
    """What stands in for a sample that differs from its record after a second GET."""

    key: str
    tar: str
    detail: str


@dataclasses.dataclass
class FetchMetrics:
    """Sums since the loader was made."""

    requests: int = 0
    bytes: int = 0
    fetch_wait_s: float = 0.0
    """Time that decoding waited for bytes."""


class DamageLedger:
    """Distinct damaged samples seen by one rank, against the budget.

    A sample counts once, however many epochs meet it. Thread-safe.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._seen: dict[str, Damaged] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def keys(self) -> tuple[str, ...]:
        """Keys of the damaged samples, in the order they were met."""
        return tuple(self._seen)

    def add(self, damaged: Damaged) -> None:
        """Count and log a damaged sample.

        Raises:
            DamagedSampleError: this one is more than the budget allows; the message lists all.
        """
        with self._lock:
            if damaged.key in self._seen:
                return
            self._seen[damaged.key] = damaged
            count = f"{len(self)} of {self.budget} allowed"
            log.warning("damaged sample %s in %s (%s): weight 0; %s", damaged.key, damaged.tar, damaged.detail, count)
            if len(self) > self.budget:
                listed = "; ".join(f"{d.key} in {d.tar} ({d.detail})" for d in self._seen.values())
                raise DamagedSampleError(
                    f"{len(self)} damaged samples, data.damaged_budget allows {self.budget}: {listed}. "
                    "Restore these shards or preprocess them again"
                )


def read_sample(storage: Storage, request: Request, metrics: FetchMetrics, lock: threading.Lock) -> dict[str, bytes] | Damaged:
    """Members of one sample by extension, checked; a second GET where the first differs, then ``Damaged``.

    Raises:
        StorageError: the storage failed; the message names shard and key.
    """
    record, detail = request.record, ""
    for _ in range(2):
        try:
            data = storage.read_range(request.tar, record.offset, record.size)
        except (StorageError, OSError) as error:
            kind = type(error) if isinstance(error, StorageError) else StorageError
            raise kind(f"sample {record.key} in {storage.uri}/{request.tar}: {error}") from error
        with lock:
            metrics.requests += 1
            metrics.bytes += len(data)
        try:
            return split_members(record, data)
        except ValueError as error:
            detail = str(error)
    return Damaged(record.key, request.tar, detail)


class Fetcher:
    """Reads requests with ``threads`` GETs in flight and yields their results in order.

    Args:
        storage: root of the data set.
        threads: GETs in flight.
        deadline_s: longest wait for one sample.
        metrics: where requests, bytes and waiting are added.

    The threads are daemons: a GET that never returns must not keep a failed process alive.
    """

    def __init__(self, storage: Storage, threads: int, deadline_s: float, metrics: FetchMetrics) -> None:
        self._storage, self._deadline_s, self._metrics = storage, deadline_s, metrics
        self._changed = threading.Condition()
        self._metrics_lock = threading.Lock()
        self._todo: dict[int, Request] = {}
        self._done: dict[int, dict[str, bytes] | Damaged | BaseException] = {}
        self._closed = False
        # Twice as many as threads, so that none idles while the oldest of them is still on its way.
        self._window = 2 * threads
        self._threads = [threading.Thread(target=self._work, name=f"fetch-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._closed)
                if self._closed:
                    return
                number = min(self._todo)
                request = self._todo.pop(number)
            result: dict[str, bytes] | Damaged | BaseException
            try:
                result = read_sample(self._storage, request, self._metrics, self._metrics_lock)
            except Exception as error:  # raised again where the sample is asked for
                result = error
            with self._changed:
                self._done[number] = result
                self._changed.notify_all()

    def iterate(self, requests: Iterable[Request]) -> Iterator[dict[str, bytes] | Damaged]:
        """Yield the result of each request, in order; may be called once.

        Raises:
            StorageError: the storage failed, or a sample did not arrive within the deadline; shard and key are named.
        """
        waiting: list[tuple[int, Request]] = []
        source = enumerate(requests)
        for number, request in source:
            waiting.append((number, request))
            self._post(number, request)
            if len(waiting) >= self._window:
                yield self._take(*waiting.pop(0))
        for number, request in waiting:
            yield self._take(number, request)

    def _post(self, number: int, request: Request) -> None:
        with self._changed:
            self._todo[number] = request
            self._changed.notify_all()

    def _take(self, number: int, request: Request) -> dict[str, bytes] | Damaged:
        began = time.perf_counter()
        with self._changed:
            arrived = self._changed.wait_for(lambda: number in self._done or self._closed, timeout=self._deadline_s)
            result = self._done.pop(number, None)
        self._metrics.fetch_wait_s += time.perf_counter() - began
        if isinstance(result, BaseException):
            raise result
        if result is None:
            state = "was given up" if arrived else f"did not arrive within {self._deadline_s:g} s"
            raise StorageError(f"sample {request.record.key} in {self._storage.uri}/{request.tar} {state}")
        return result

    def close(self) -> None:
        """Stop the threads, waiting a few seconds for GETs in flight."""
        with self._changed:
            self._closed = True
            self._todo.clear()
            self._done.clear()
            self._changed.notify_all()
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        hung = [thread.name for thread in self._threads if thread.is_alive()]
        if hung:
            log.warning("left behind, still inside a GET: %s", ", ".join(hung))
