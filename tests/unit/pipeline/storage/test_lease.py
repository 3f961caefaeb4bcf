"""Leases on a storage: different plans exclude each other, equal ones do not, and a dead writer is replaced.

On files and on an S3 server that knows no conditional writes; with real threads and real processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage import Storage, open_storage
from pipeline.storage.lease import Lease, LeaseLostError, Timing, hold, remove_gone
from pipeline.storage.lease_holder import Holder
from tests.support.memory_s3 import MemoryS3
from tests.support.paths import ROOT

QUICK = Timing(beat_s=0.1, look_s=0.02, gone_s=0.3, dead_s=1.0)


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    if request.param == "file":
        yield open_storage(f"file://{tmp_path}/out")
        return
    server = MemoryS3()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield open_storage("s3://bucket/out")
    server.close()


def refuse(holder: Holder) -> UserError:
    return UserError(f"held by {holder} for {holder.plan}")


def held(storage: Storage, plan: str, timing: Timing = QUICK) -> contextlib.AbstractContextManager[Lease]:
    return hold(storage, plan=plan, about={"plan": plan}, refuse=refuse, timing=timing)


def leases(storage: Storage) -> list[str]:
    return list(storage.list(".lease-"))


def test_another_plan_is_refused_while_a_lease_is_held_and_let_in_afterwards(storage: Storage) -> None:
    with held(storage, "one") as lease:
        for _ in range(2):
            with pytest.raises(UserError, match=rf"held by .+ on .+ \(process {os.getpid()}, since .* UTC\) for one"):
                held(storage, "two").__enter__()
        lease.check(look=True)
    with held(storage, "two"):
        assert len(leases(storage)) == 1
    assert leases(storage) == []


def test_equal_plans_write_at_once_and_the_last_one_still_protects_them(storage: Storage) -> None:
    with held(storage, "one") as first:
        with held(storage, "one") as second:
            first.check(look=True)
            second.check(look=True)
        with pytest.raises(UserError, match="held by"):
            held(storage, "two").__enter__()
    assert leases(storage) == []


def test_of_writers_that_come_at_the_same_moment_one_plan_at_most_is_inside(storage: Storage) -> None:
    inside: list[str] = []
    got_in: list[str] = []
    overlaps: list[tuple[str, ...]] = []
    start = threading.Barrier(5)

    def writer(plan: str) -> None:
        start.wait()
        with contextlib.suppress(UserError), held(storage, plan):
            inside.append(plan)
            got_in.append(plan)
            for _ in range(10):
                if len(now := {*inside}) > 1:
                    overlaps.append((*now,))
                time.sleep(0.02)
            inside.remove(plan)

    for _ in range(3):
        threads = [threading.Thread(target=writer, args=(plan,)) for plan in ("a", "b", "c", "a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert overlaps == []
    assert len(got_in) >= 3, "every round lets somebody in"
    assert leases(storage) == []


def test_an_error_in_the_block_releases_the_lease(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError), held(storage, "one"):
        raise ZeroDivisionError
    assert leases(storage) == []


def test_a_writer_whose_lease_was_removed_finds_out(storage: Storage) -> None:
    with held(storage, "one") as lease:
        lease.check()
        storage.delete(leases(storage)[0])
        with pytest.raises(LeaseLostError, match=r"has removed this one's lease.*run it again"):
            lease.check(look=True)
        time.sleep(3 * QUICK.beat_s)
        assert leases(storage) == [], "a lost lease must not come back"


@pytest.mark.parametrize("content", [b"", b'{"name": "x"', b"[" * 100_000, b'{"plan": 3, "name": "odd"}', b"\xff"])
def test_an_object_that_is_no_lease_is_waited_for_and_removed(tmp_path: Path, content: bytes) -> None:
    storage = open_storage(f"file://{tmp_path}")
    storage.write(".lease-odd.json", content)
    start_s, timing = time.monotonic(), Timing(beat_s=0.1, look_s=0.02, gone_s=0.3, dead_s=0.3)
    with held(storage, "one", timing):
        assert time.monotonic() - start_s >= timing.dead_s
        assert ".lease-odd.json" not in leases(storage)


_WRITER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from pipeline.storage import open_storage
from pipeline.storage.lease import LeaseLostError, Timing, hold, remove_gone
timing = Timing(beat_s=0.1, look_s=0.02, gone_s=0.3, dead_s=1.0)
with hold(open_storage(sys.argv[1]), plan="theirs", about={}, refuse=lambda h: SystemExit(3), timing=timing) as lease:
    print("held", flush=True)
    while True:
        time.sleep(0.05)
        try:
            lease.check()
        except LeaseLostError as error:
            print(error)
            sys.exit(4)
"""


@pytest.fixture
def writer(storage: Storage) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, storage.uri],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_a_killed_writer_is_replaced_and_a_live_one_is_not(storage: Storage, writer: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError, match=rf"\(process {writer.pid}, since"):
        held(storage, "mine").__enter__()
    writer.kill()
    writer.wait()
    patient = Timing(beat_s=0.1, look_s=0.02, gone_s=0.3, dead_s=600.0)  # seen by the process, not by the minute
    with held(storage, "mine", patient):
        assert len(leases(storage)) == 1


def test_a_killed_writer_of_the_same_plan_does_not_delay_and_leaves_nothing(
    storage: Storage, writer: subprocess.Popen[str]
) -> None:
    writer.kill()
    writer.wait()
    start_s = time.monotonic()
    with held(storage, "theirs"):
        assert time.monotonic() - start_s < QUICK.gone_s
    assert leases(storage) == []


def test_what_killed_writers_left_is_removed_and_a_live_ones_lease_is_not(
    storage: Storage, writer: subprocess.Popen[str]
) -> None:
    remove_gone(storage)
    assert len(leases(storage)) == 1
    writer.kill()
    writer.wait()
    remove_gone(storage)
    assert leases(storage) == []


def test_an_interrupted_writer_releases_its_lease(storage: Storage, writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGINT)
    _, errors = writer.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert leases(storage) == []


def test_a_writer_that_was_stopped_for_long_is_replaced_and_finds_out(
    storage: Storage, writer: subprocess.Popen[str]
) -> None:
    writer.send_signal(signal.SIGSTOP)
    with held(storage, "mine") as lease:
        writer.send_signal(signal.SIGCONT)
        output, _ = writer.communicate(timeout=20)
        assert writer.returncode == 4, output
        assert "no sign of life" in output
        lease.check(look=True)
    assert leases(storage) == []
