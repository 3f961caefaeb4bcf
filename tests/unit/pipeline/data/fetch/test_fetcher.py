"""Reading ahead: order, damage, deadlines, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.data.fetch.damage import Damaged, DamageLedger
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.fetch.read import FetchMetrics
from pipeline.data.index import load_index
from pipeline.errors import DamagedSampleError, NotFoundError, StorageError
from pipeline.storage import LocalStorage


class FaultyStorage(LocalStorage):
    """A local storage whose ranged reads can be damaged, slowed, blocked or refused."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.calls = 0
        self.in_flight = self.most_in_flight = 0
        self.damage: dict[int, int] = {}  # offset -> reads still to damage
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.delays_s: list[float] = []
        self._lock = threading.Lock()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._lock:
            self.calls += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            delay_s = self.delays_s.pop(0) if self.delays_s else 0.0
            damage_it = self.damage.get(offset, 0) > 0
            self.damage[offset] = self.damage.get(offset, 0) - 1
        time.sleep(delay_s)
        self.gate.wait(20)
        with self._lock:
            self.in_flight -= 1
        if self.error is not None:
            raise self.error
        data = bytearray(super().read_range(path, offset, length))
        if damage_it:
            data[length // 2] ^= 1
        return bytes(data)


@pytest.fixture
def stored(counter_set):
    index = load_index(counter_set.storage, counter_set.manifest, "train", ("rgb",))
    return FaultyStorage(str(counter_set.root)), [index.sample_range(i) for i in range(len(index))]


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not holds() and time.monotonic() < until:
        time.sleep(0.002)


def fetch_threads() -> int:
    return sum(thread.name.startswith("fetch-") for thread in threading.enumerate())


def test_results_come_in_order_and_reads_overlap(stored) -> None:
    storage, requests = stored
    storage.delays_s = [0.08, 0.0, 0.04, 0.0, 0.06, 0.0]
    metrics = FetchMetrics()
    fetcher = Fetcher(storage, 4, 10, metrics)
    found = list(fetcher.iterate(requests))
    fetcher.close()
    wanted = [
        LocalStorage(str(storage.root)).read_range(r.tar, r.members[0].offset, r.members[0].size) for r in requests
    ]
    assert [members["rgb.mp4"] for members in found if not isinstance(members, Damaged)] == wanted
    assert 2 <= storage.most_in_flight <= 4
    assert metrics.requests == storage.calls == len(requests), "one GET a sample"
    assert metrics.bytes == sum(len(data) for data in wanted), "only the members asked for"
    assert fetch_threads() == 0


def test_a_second_get_replaces_damaged_bytes_and_lasting_damage_is_reported(stored) -> None:
    storage, requests = stored
    storage.damage = {requests[1].offset: 1}
    storage.damage[requests[3].offset] = 2
    targets = [r for r in requests if r.tar == requests[0].tar][:5]
    fetcher = Fetcher(storage, 1, 10, FetchMetrics())
    found = list(fetcher.iterate(targets))
    fetcher.close()
    damaged = [n for n, result in enumerate(found) if isinstance(result, Damaged)]
    assert damaged == [3]
    assert found[3].key == targets[3].key
    assert "crc32" in found[3].detail
    assert found[3].tar == targets[3].tar
    assert storage.calls == 7, "five reads and two second ones"


def test_a_missed_deadline_names_shard_and_key(stored) -> None:
    storage, requests = stored
    storage.gate.clear()
    fetcher = Fetcher(storage, 2, 0.1, FetchMetrics())
    with pytest.raises(
        StorageError, match=rf"sample {requests[0].key} in .*{requests[0].tar} did not arrive within 0.1 s"
    ):
        next(fetcher.iterate(requests))
    storage.gate.set()
    fetcher.close()
    assert fetch_threads() == 0


def test_closing_wakes_whoever_waits(stored) -> None:
    storage, requests = stored
    storage.gate.clear()
    fetcher = Fetcher(storage, 2, 60, FetchMetrics())
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            next(fetcher.iterate(requests))
        except StorageError as error:
            errors.append(error)

    waiting = threading.Thread(target=consume)
    waiting.start()
    time.sleep(0.05)
    threading.Timer(0.1, storage.gate.set).start()
    fetcher.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert "was abandoned" in str(errors[0])
    assert fetch_threads() == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [(StorageError("no route"), StorageError), (NotFoundError("gone"), NotFoundError), (OSError("disk"), StorageError)],
)
def test_storage_errors_keep_their_kind_and_gain_a_place(stored, error, kind) -> None:
    storage, requests = stored
    storage.error = error
    fetcher = Fetcher(storage, 2, 5, FetchMetrics())
    with pytest.raises(kind, match=f"sample {requests[0].key} in .*{requests[0].tar}: ") as caught:
        list(fetcher.iterate(requests))
    assert type(caught.value) is kind
    fetcher.close()


def test_the_budget_counts_each_damaged_sample_once(caplog) -> None:
    ledger = DamageLedger(2)
    for _ in range(3):
        ledger.add(Damaged("a", "train/shard-000000.tar", "crc32"))
        ledger.add(Damaged("b", "train/shard-000001.tar", "crc32"))
    assert len(ledger) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "damaged sample a in train/shard-000000.tar (crc32): weight 0; 1 of 2 allowed",
        "damaged sample b in train/shard-000001.tar (crc32): weight 0; 2 of 2 allowed",
    ]
    listed = r"3 damaged samples.*allows 2: a in train/shard-000000\.tar.*; c in train/shard-000002\.tar \(short\)"
    with pytest.raises(DamagedSampleError, match=listed):
        ledger.add(Damaged("c", "train/shard-000002.tar", "short"))
    with pytest.raises(DamagedSampleError, match=r"Restore these shards or preprocess them again$"):
        ledger.add(Damaged("d", "train/shard-000002.tar", "short"))


def test_indices_are_numpy_friendly(stored) -> None:
    _, requests = stored
    assert all(isinstance(r.offset, int) and not isinstance(r.offset, np.integer) for r in requests)


class SlowStorage(FaultyStorage):
    """Every read takes ``get_s``."""

    get_s = 0.02

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.delays_s = [self.get_s]
        return super().read_range(path, offset, length)


def test_gets_in_flight_and_threads_follow_the_decoders_rate(stored) -> None:
    """Little's law: 50 samples a second that take 0.02 s each are one GET in flight; a decoder that never waits
    gets all it may.
    """
    storage, requests = SlowStorage(str(stored[0].root)), stored[1] * 10
    metrics = FetchMetrics()
    with Fetcher(storage, 16, 10, metrics) as fetcher:
        assert fetch_threads() == 0, "made as they are needed"
        for _ in fetcher.iterate(requests):
            time.sleep(0.02)
        assert metrics.fetch_depth_max <= 8
        assert metrics.fetch_depth <= 4
        assert fetch_threads() <= 8
    assert fetch_threads() == 0
    metrics, storage.most_in_flight = FetchMetrics(), 0
    began_s = time.perf_counter()
    with Fetcher(storage, 16, 10, metrics) as fetcher:
        for _ in fetcher.iterate(requests):
            pass
    assert time.perf_counter() - began_s < len(requests) * storage.get_s / 5, "more than five at once on average"
    assert metrics.fetch_depth == metrics.fetch_depth_max == storage.most_in_flight == 16
    assert fetch_threads() == 0


def test_bytes_ahead_are_bounded(stored) -> None:
    storage, requests = stored
    largest = max(r.size for r in requests)
    for bound in (3 * largest, 1):
        metrics = FetchMetrics()
        with Fetcher(storage, 16, 10, metrics, buffer_bytes=bound, burst=8) as fetcher:
            found = fetcher.iterate(requests)
            next(found)
            time.sleep(0.1)
            assert len(list(found)) == len(requests) - 1
        assert metrics.fetch_held_max <= max(bound, largest)
        assert storage.calls == len(requests)
        storage.calls = 0


@pytest.mark.parametrize(("threads", "burst"), [(1, 1), (1, 4), (3, 2)])
def test_samples_ahead_are_a_batch_and_two_for_each_get_in_flight(stored, threads, burst) -> None:
    """A consumer that takes one sample and stops must not have the rest of the epoch read behind its back."""
    storage, requests = stored
    requests = requests * 3
    with Fetcher(storage, threads, 10, FetchMetrics(), burst=burst) as fetcher:
        found = fetcher.iterate(requests)
        next(found)
        ahead = burst + 2 * threads
        wait_until(lambda: storage.calls >= ahead)
        time.sleep(0.05)
        assert storage.calls == ahead < len(requests), "the one taken is of these"
        next(found)
        wait_until(lambda: storage.calls >= ahead + 1)
        time.sleep(0.05)
        assert storage.calls == ahead + 1, "one more for each that is taken"


@pytest.mark.slow
def test_the_deadline_is_a_batchs_not_each_samples(stored) -> None:
    """Samples that trickle in, each a little below the deadline, would otherwise hold up a batch for many times as
    long.
    """
    storage, requests = SlowStorage(str(stored[0].root)), stored[1][:8]
    storage.get_s = 0.25
    with (
        Fetcher(storage, 1, 1.5, FetchMetrics(), burst=8) as fetcher,
        pytest.raises(StorageError, match=r"sample clip-\S+ in .*\.tar did not arrive within 1.5 s"),
    ):
        list(fetcher.iterate(requests))
    with Fetcher(storage, 1, 1.5, FetchMetrics(), burst=2) as fetcher:
        assert len(list(fetcher.iterate(requests))) == 8, "batches of two are in time"
