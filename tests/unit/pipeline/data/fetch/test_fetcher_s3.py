"""Fetching from an S3 server that hangs, trickles, fails, lies about ranges or holds other bytes than the records
say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.fetch.read import FetchMetrics
from pipeline.data.index import load_index
from pipeline.dataset.shards import SampleRange
from pipeline.errors import NotFoundError, StorageError
from pipeline.storage import S3Storage, s3_retry
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.memory_s3 import MemoryS3


@pytest.fixture
def server() -> Iterator[MemoryS3]:
    memory = MemoryS3()
    yield memory
    memory.close()


@pytest.fixture
def proxy(server: MemoryS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint) as made:
        for name, value in {
            "AWS_ENDPOINT_URL": made.endpoint,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_retry, "_FIRST_PAUSE_S", 0.02)
        yield made


@pytest.fixture
def requests(server: MemoryS3, counter_set) -> list[SampleRange]:
    server.objects |= {f"p/{path}": counter_set.storage.read(path) for path in counter_set.storage.list()}
    index = load_index(counter_set.storage, counter_set.manifest, "train", ("rgb", "flow"))
    return [index.sample_range(i) for i in range(len(index))]


def fetch(requests: list[SampleRange], deadline_s: float = 10.0, threads: int = 4) -> tuple[list[object], FetchMetrics]:
    metrics = FetchMetrics()
    with Fetcher(S3Storage("bucket", "p"), threads, deadline_s, metrics, burst=4) as fetcher:
        return list(fetcher.iterate(requests)), metrics


def settled_threads(limit_s: float = 5.0) -> int:
    until = time.monotonic() + limit_s
    while (
        count := sum(t.name.startswith("fetch-") and "proxy" not in t.name for t in threading.enumerate())
    ) and time.monotonic() < until:
        time.sleep(0.02)
    return count


def test_every_passing_fault_costs_repetitions_that_are_counted(proxy: FaultProxy, requests: list[SampleRange]) -> None:
    right, metrics = fetch(requests)
    assert metrics.retries == 0
    proxy.script.extend(["reset", None, "slow_down", "cut_answer", None, "lose_answer", "slow_down"])
    found, metrics = fetch(requests)
    assert found == right
    assert metrics.retries == 5
    assert metrics.requests == len(requests)
    assert not proxy.script


@pytest.mark.parametrize("fault", ["hang", "trickle", "refuse"])
@pytest.mark.slow
def test_a_server_that_gives_nothing_ends_within_the_deadline_with_shard_and_key(
    proxy: FaultProxy, requests: list[SampleRange], monkeypatch, fault: str
) -> None:
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "600")  # the batch's own deadline rules, whatever this one says
    fetch(requests, deadline_s=2.0)  # what comes with a first request is not what is timed
    if fault == "refuse":
        proxy.down()
    else:
        proxy.faults = Faults(stall=1.0) if fault == "hang" else Faults(bytes_per_s=40)
    began_s = time.monotonic()
    with pytest.raises(
        StorageError,
        match=(
            rf"sample {requests[0].key} in s3://bucket/p/{requests[0].tar}.* (given up after \d+ tries|did not"
            r" arrive within 2)"
        ),
    ) as caught:
        fetch(requests, deadline_s=2.0)
    raised_s = time.monotonic() - began_s
    assert raised_s < 2.0 + 1.5, "closing takes a moment more, on a busy machine"
    assert str(caught.value).count(requests[0].key) == 1
    assert settled_threads() == 0, "GETs end by themselves soon after"


def test_a_hanging_get_is_repeated_before_the_batch_fails(proxy: FaultProxy, requests: list[SampleRange]) -> None:
    right, _ = fetch(requests)
    proxy.script.extend(["stall", None, "stall"])
    began_s = time.monotonic()
    found, metrics = fetch(requests, deadline_s=3.0)
    assert found == right
    assert metrics.retries == 2
    assert time.monotonic() - began_s < 1.5, "a sixth of the deadline each"


def test_a_missing_tar_ends_at_once_with_shard_and_key(
    server: MemoryS3, proxy: FaultProxy, requests: list[SampleRange]
) -> None:
    del server.objects[f"p/{requests[0].tar}"]
    began_s = time.monotonic()
    with pytest.raises(
        NotFoundError, match=rf"sample {requests[0].key} in s3://bucket/p/{requests[0].tar}: .*does not exist"
    ):
        fetch(requests)
    assert time.monotonic() - began_s < 2


def test_tars_that_are_short_or_not_the_recorded_ones_are_damage(
    server: MemoryS3, proxy: FaultProxy, requests: list[SampleRange]
) -> None:
    first, other = dict.fromkeys(r.tar for r in requests[:9])
    server.objects[f"p/{first}"] = server.objects[f"p/{first}"][
        : requests[2].offset + 100
    ]  # cut inside sample 2, before 3 and 4
    server.objects[f"p/{other}"] = bytes(len(server.objects[f"p/{other}"]))  # another object of the same size
    found, metrics = fetch(requests)
    wrong = {n: r.detail for n, r in enumerate(found) if isinstance(r, Damaged)}
    assert list(wrong) == [2, 3, 4, 5, 6, 7, 8]
    assert "100 bytes instead of" in wrong[2]
    assert "0 bytes instead of" in wrong[3]
    assert "crc32" in wrong[5]
    assert metrics.requests == len(requests) + 7


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_the_whole_tar(
    server: MemoryS3, proxy: FaultProxy, requests: list[SampleRange]
) -> None:
    handler = server._server.RequestHandlerClass
    plain = handler.do_GET

    def without_range(self) -> None:
        del self.headers["Range"]
        plain(self)

    handler.do_GET = without_range
    with pytest.raises(StorageError, match=rf"sample {requests[0].key} in .*the server ignores Range"):
        fetch(requests[:1])
