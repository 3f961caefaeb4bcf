"""S3 storage behind a proxy that refuses, cuts, loses, stalls and slows down, in front of a small server in memory."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, NotFoundError, StorageError, StorageSetupError
from pipeline.storage import S3Storage, s3, s3_retry
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
        monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "10")
        monkeypatch.setattr(s3_retry, "_FIRST_PAUSE_S", 0.02)
        yield made


@pytest.fixture
def storage(proxy: FaultProxy) -> S3Storage:
    return S3Storage("bucket", "p")


@pytest.mark.parametrize("fault", ["reset", "slow_down", "cut_answer", "lose_answer", "cut_upload"])
def test_every_operation_outlives_every_fault(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, fault: str, tmp_path: Path
) -> None:
    data = random.Random(0).randbytes(200_000)
    server.objects |= {"p/a": data, "p/b": b"b", "p/c": b""}
    (tmp_path / "file").write_bytes(data)

    def twice() -> None:
        proxy.script.extend([fault] * 2)

    twice()
    assert storage.read("a") == data
    twice()
    assert storage.read_range("a", 1000, 50_000) == data[1000:51_000]
    twice()
    assert list(storage.list()) == ["a", "b", "c"]
    twice()
    assert storage.size("a") == 200_000
    twice()
    storage.write("w", data)
    twice()
    storage.write_file("f", tmp_path / "file")
    twice()
    storage.delete("b")
    assert not proxy.script
    assert proxy.counts[fault] == 14
    assert server.objects == {"p/a": data, "p/c": b"", "p/w": data, "p/f": data}


def test_random_faults_from_many_threads_lose_nothing(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nearly half of all tries fail, and in ten seconds of usual pauses there are about ten: once in fifty runs of this
    # test a request would fail for good.
    monkeypatch.setattr(s3_retry, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "60")
    proxy.faults = Faults(
        reset=0.05, slow_down=0.1, cut_answer=0.05, lose_answer=0.05, cut_upload=0.05, delay=0.05, delay_s=(0.0, 0.1)
    )
    wrong: list[str] = []

    def work(worker: int) -> None:
        for i in range(5):
            data = random.Random(f"{worker} {i}").randbytes(20_000)
            storage.write(f"{worker}/{i}", data)
            if storage.read(f"{worker}/{i}") != data:
                wrong.append(f"{worker}/{i}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert wrong == []
    assert len(server.objects) == 30
    assert sum(proxy.counts[kind] for kind in Faults.KINDS) > 15


def test_large_files_go_up_in_parts_and_a_lost_part_costs_a_part(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 100_000)
    data = random.Random(1).randbytes(950_001)
    (tmp_path / "file").write_bytes(data)
    proxy.script.extend([None, "cut_upload", None, "reset", None, "lose_answer", "slow_down", None])
    storage.write_file("f", tmp_path / "file")
    assert server.objects["p/f"] == data
    parts = [line for line in server.requests if "partNumber" in line]
    assert 10 <= len(parts) <= 13, "ten parts, and those that were repeated"
    assert sum("?uploads" in line for line in server.requests) == 1


def test_a_completion_whose_answer_is_lost_is_not_an_error(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 100_000)
    (tmp_path / "file").write_bytes(bytes(150_000))
    proxy.faults = Faults(path=r"\?uploadId=\w+$", methods=frozenset({"POST"}))
    proxy.script.append("lose_answer")
    storage.write_file("f", tmp_path / "file")
    assert server.objects["p/f"] == bytes(150_000)
    assert server.completed == 1
    assert proxy.counts["lose_answer"] == 1


class SkippedPauses(threading.local):
    """A clock for ``s3_retry`` whose pauses pass at once, each for its own thread: a deadline of half a minute is over
    after some tries of the request that fails, while the others have all of it, on however slow a machine.
    """

    skipped_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def sleep(self, seconds: float) -> None:
        self.skipped_s += seconds


def test_parts_of_an_upload_that_fails_are_removed(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 100_000)
    monkeypatch.setattr(s3_retry, "time", SkippedPauses())
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "30")
    (tmp_path / "file").write_bytes(bytes(350_000))
    proxy.faults = Faults(slow_down=1.0, path="partNumber=3")
    with pytest.raises(StorageError, match=r"p/f: given up after \d+ tries.*SlowDown"):
        storage.write_file("f", tmp_path / "file")
    assert server.uploads == {}
    assert server.objects == {}


def test_an_upload_that_arrived_short_is_seen(storage: S3Storage, server: MemoryS3, monkeypatch) -> None:
    monkeypatch.setattr(s3_retry, "time", SkippedPauses())
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "30")

    class Shrinks(dict):
        def __setitem__(self, key: str, value: bytes) -> None:
            super().__setitem__(key, value[:-1])

    server.objects = Shrinks()
    with pytest.raises(StorageError, match="stored with 9 bytes instead of 10"):
        storage.write("x", bytes(10))


def test_a_server_that_is_restarted_costs_time_and_no_work(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3
) -> None:
    server.objects["p/a"] = b"1"
    assert storage.read("a") == b"1"
    proxy.down()
    threading.Timer(1.0, proxy.up).start()
    began = time.monotonic()
    assert storage.read("a") == b"1"
    assert time.monotonic() - began > 0.9


def test_after_the_deadline_it_is_an_error_that_says_what_happened(
    storage: S3Storage, proxy: FaultProxy, monkeypatch
) -> None:
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "1")
    proxy.down()
    began = time.monotonic()
    with pytest.raises(
        StorageError, match=r"s3://bucket/p/a: given up after \d+ tries in \d s; the last: .*Could not connect"
    ) as caught:
        storage.read("a")
    assert not isinstance(caught.value, StorageSetupError), "in mid-work this is no refusal"
    assert time.monotonic() - began < 15, "far less than the default deadline"
    proxy.up()
    proxy.faults = Faults(slow_down=1.0)
    with pytest.raises(StorageError, match="SlowDown"):
        storage.read("a")
    assert proxy.counts["slow_down"] >= 3


def test_a_trickle_does_not_pass_for_an_answer(
    storage: S3Storage, proxy: FaultProxy, server: MemoryS3, monkeypatch
) -> None:
    """A byte now and then never runs into a socket's timeout."""
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "1")
    server.objects["p/a"] = bytes(100_000)
    proxy.faults = Faults(bytes_per_s=100)
    began = time.monotonic()
    with pytest.raises(StorageError, match="not finished within 1 s"):
        storage.read("a")
    assert time.monotonic() - began < 15, "the whole body would take 1000 s"


@pytest.mark.parametrize(
    ("name", "bucket", "error"), [("absent", "bucket", NotFoundError), ("a", "other", StorageSetupError)]
)
def test_refusals_are_not_repeated(
    storage: S3Storage, server: MemoryS3, name: str, bucket: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        S3Storage(bucket, "p").read(name)
    assert len(server.requests) == 1


def test_the_probe_does_not_wait_for_a_server_that_is_not_there(
    storage: S3Storage, proxy: FaultProxy, monkeypatch
) -> None:
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", "60")
    proxy.down()
    began = time.monotonic()
    with pytest.raises(StorageSetupError, match="no S3 server answers"):
        storage.probe(write=True)
    assert time.monotonic() - began < 2
    proxy.up()
    proxy.script.extend(["slow_down", "reset", "lose_answer"])
    storage.probe(write=True)  # but one transient failure does not stop it
    assert not proxy.script


def test_two_probes_at_once_do_not_disturb_each_other(storage: S3Storage, server: MemoryS3) -> None:
    """The other command removes its marker, which has the same name, between our upload and our look at it."""

    class Snatched(dict):
        def __setitem__(self, key: str, value: bytes) -> None:
            if not key.endswith(".probe"):
                super().__setitem__(key, value)

    server.objects = Snatched()
    storage.probe(write=True)
    assert any(request.startswith("PUT") and ".probe" in request for request in server.requests)
    assert not server.objects


def test_connections_are_used_again(storage: S3Storage, proxy: FaultProxy, server: MemoryS3) -> None:
    server.objects["p/a"] = bytes(300_000)
    for _ in range(10):
        storage.read("a")
        storage.read_range("a", 5, 10)
    assert proxy.counts["connections"] == 1


def test_a_range_behind_the_end_is_empty_as_in_a_file(storage: S3Storage, server: MemoryS3) -> None:
    server.objects |= {"p/a": b"0123", "p/empty": b""}
    assert storage.read_range("a", 2, 10) == b"23"
    assert storage.read_range("a", 4, 10) == b""
    assert storage.read_range("empty", 0, 1) == b""
    assert storage.read("empty") == b""


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_that_is_none_is_refused(storage: S3Storage, monkeypatch, value: str) -> None:
    monkeypatch.setenv("RECIPROCAL_S3_DEADLINE_S", value)
    with pytest.raises(ConfigError, match=r"RECIPROCAL_S3_DEADLINE_S = .*: give a number of seconds"):
        storage.read("a")
