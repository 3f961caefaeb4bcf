"""One ranged GET a sample, many in flight, handed over in order; damage is found here, before any decoder.

with Fetcher(storage, 32, 180.0, metrics, burst=8) as fetcher:
    for members in fetcher.iterate(requests):      # {"rgb.mp4": b"...", ...} or Damaged
        ...
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

from pipeline.data.fetch.cache import DiskCache
from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.depth import Depth
from pipeline.data.fetch.read import FetchMetrics, read_sample
from pipeline.dataset.shards import SampleRange
from pipeline.errors import StorageError
from pipeline.storage import Storage

log = logging.getLogger(__name__)

_JOIN_S = 5.0
_BUFFER_BYTES = 256 << 20


class Fetcher:
    """Reads samples with as many GETs in flight as keep up with the decoder, and yields their results in order.

    Besides the samples of a batch, twice as many are read ahead as there are GETs in flight, within ``buffer_bytes``.

    Args:
        storage: root of the data set.
        threads: most GETs in flight.
        deadline_s: longest wait for ``burst`` samples together; each GET, its retries included, ends
            by then too.
        metrics: where requests, bytes and waiting are added.
        buffer_bytes: most bytes in flight or ready, unless one sample alone is larger.
        burst: samples that the consumer takes at once.
        cache: looked into before the storage, and filled from it.

    Threads are made as they are needed. They are daemons: a GET that never returns must not keep a failed process
    alive.
    """

    def __init__(
        self,
        storage: Storage,
        threads: int,
        deadline_s: float,
        metrics: FetchMetrics,
        *,
        buffer_bytes: int = _BUFFER_BYTES,
        burst: int = 1,
        cache: DiskCache | None = None,
    ) -> None:
        self._storage = storage.within(deadline_s, self._retried)
        self._deadline_s, self._metrics, self._cache = deadline_s, metrics, cache
        self._buffer_bytes, self._burst = buffer_bytes, burst
        self._lock = threading.Lock()
        self._work, self._arrival = threading.Condition(self._lock), threading.Condition(self._lock)
        self._depth = Depth(threads, burst)
        self._todo: deque[tuple[int, SampleRange]] = deque()
        self._done: dict[int, dict[str, bytes] | Damaged | BaseException] = {}
        self._in_flight = self._idle = self._num_taken = self._wanted = 0
        self._batch_wait_s = 0.0
        self._closed = self._failed = False
        self._awaited: SampleRange | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting_for(self) -> str:
        """The sample that has not arrived and is waited for, with its shard; "" where none is."""
        request = self._awaited
        return f"sample {request.key} of {self._storage.uri}/{request.tar}" if request else ""

    def _retried(self) -> None:
        with self._lock:
            self._metrics.retries += 1
            if self._closed:
                raise StorageError("abandoned, because the loader was closed")

    def _run(self) -> None:
        while True:  # a thread is counted as idle from before it starts, so that no two are made for one GET
            with self._lock:
                self._work.wait_for(lambda: self._closed or (self._todo and self._in_flight < self._depth.value))
                self._idle -= 1
                if self._closed:
                    return
                number, request = self._todo.popleft()
                self._in_flight += 1
                self._metrics.fetch_depth_max = max(self._metrics.fetch_depth_max, self._in_flight)
            began_s = time.perf_counter()
            result: dict[str, bytes] | Damaged | BaseException
            try:
                result = read_sample(self._storage, request, self._metrics, self._lock, self._cache)
            except Exception as error:  # raised again where the sample is taken
                result = error
            with self._lock:
                self._in_flight -= 1
                self._idle += 1
                self._depth.arrived(time.perf_counter() - began_s)
                if not self._closed:
                    self._done[number] = result
                if isinstance(result, BaseException):  # it ends the iteration: later samples are no longer wanted
                    self._failed = True
                    self._todo.clear()
                if number == self._wanted:
                    self._arrival.notify()
            del number, request, result  # an idle thread must not keep a sample's bytes

    def iterate(self, requests: Iterable[SampleRange]) -> Iterator[dict[str, bytes] | Damaged]:
        """Yield the result of each request, in order; may be called once.

        Raises:
            StorageError: the storage failed, or samples did not arrive within the deadline; shard and key are named.
        """
        ahead: deque[tuple[int, SampleRange]] = deque()
        held = 0
        source = enumerate(requests)
        upcoming = next(source, None)
        while ahead or upcoming:
            while upcoming and self._has_room(len(ahead), held, upcoming[1].size):
                held += upcoming[1].size
                self._metrics.fetch_held_max = max(self._metrics.fetch_held_max, held)
                ahead.append(upcoming)
                self._post(*upcoming)
                upcoming = next(source, None)
            number, request = ahead.popleft()
            held -= request.size
            yield self._take(number, request)

    def _has_room(self, num_ahead: int, held: int, size: int) -> bool:
        return num_ahead == 0 or (num_ahead < self._burst + 2 * self._depth.value and held + size <= self._buffer_bytes)

    def _post(self, number: int, request: SampleRange) -> None:
        with self._lock:
            if not (self._failed or self._closed):
                self._todo.append((number, request))
                self._start()

    def _start(self) -> None:
        """Wake or make as many threads as may begin a GET."""
        startable = min(len(self._todo), self._depth.value - self._in_flight)
        self._work.notify(max(0, startable))
        for _ in range(startable - self._idle):
            thread = threading.Thread(target=self._run, name=f"fetch-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._idle += 1
        self._metrics.fetch_depth = self._depth.value

    def _take(self, number: int, request: SampleRange) -> dict[str, bytes] | Damaged:
        began_s = time.perf_counter()
        with self._lock:
            queued, self._wanted, self._awaited = len(self._todo), number, request
            if self._num_taken % self._burst == 0:
                self._batch_wait_s = 0.0
            arrived = self._arrival.wait_for(
                lambda: number in self._done or self._closed, timeout=max(0.0, self._deadline_s - self._batch_wait_s)
            )
            result, self._awaited = self._done.pop(number, None), None
            now_s = time.perf_counter()
            self._batch_wait_s += now_s - began_s
            self._num_taken += 1
            self._metrics.fetch_wait_s += now_s - began_s
            self._depth.taken(now_s, now_s - began_s, queued)
            self._start()
        if isinstance(result, BaseException):
            raise result
        if result is None:
            state = "was abandoned" if arrived else f"did not arrive within {self._deadline_s:g} s"
            raise StorageError(f"sample {request.key} in {self._storage.uri}/{request.tar} {state}")
        return result

    def close(self) -> None:
        """Stop the threads, waiting a few seconds for GETs in flight."""
        with self._lock:
            self._closed = True
            self._todo.clear()
            self._done.clear()
            self._work.notify_all()
            self._arrival.notify_all()
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        hung = [thread.name for thread in self._threads if thread.is_alive()]
        if hung:
            log.warning("left behind, still inside a GET: %s", ", ".join(hung))
