"""Processes are recognised exactly, and only the stack's own are ended. Real processes; ``ps`` is the oracle."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import process
from infra.process import TOKEN_VARIABLE, ProcessId

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]
# Starts a child in a session of its own without the token (as a program that rewrites its environment does), then
# sleeps.
PARENT = [
    sys.executable,
    "-c",
    (
        "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'],"
        " env={}, start_new_session=True)\nprint(child.pid, flush=True)\ntime.sleep(120)"
    ),
]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(120)",
]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, which must survive every test."""
    child = subprocess.Popen(SLEEP, start_new_session=True)
    yield child
    assert child.poll() is None
    child.kill()
    child.wait()


def start(tmp_path: Path, command: list[str], token: str) -> ProcessId:
    return process.start(command, env={**os.environ, TOKEN_VARIABLE: token}, cwd=tmp_path, log=tmp_path / "log")


def ps(pid: int, column: str) -> str:
    return subprocess.run(["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


def read_when_there(path: Path) -> str:
    assert process.wait_until(lambda: path.read_text().endswith("\n"), 20)
    return path.read_text().strip()


def test_started_process_leads_its_session_with_closed_stdin_and_logged_output(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys, time; print(repr(sys.stdin.read())); print('err', file=sys.stderr, flush=True); time.sleep(60)",
    ]
    leader = start(tmp_path, command, "t1/")
    try:
        assert process.wait_until(lambda: "err" in (tmp_path / "log").read_text(), 20)
        assert int(ps(leader.pid, "sid")) == leader.pid == int(ps(leader.pid, "pgid"))
        assert os.readlink(f"/proc/{leader.pid}/fd/0") == "/dev/null"
    finally:
        process.end([leader], "t1/")
    assert "''" in (tmp_path / "log").read_text()


def test_recycled_pid_is_refused(stranger: subprocess.Popen[bytes]) -> None:
    """A record whose pid now belongs to another process (another start time, or another boot) gets no signal."""
    now = process.identify(stranger.pid)
    assert now is not None
    assert process.is_alive(now)
    for old in (
        dataclasses.replace(now, start_ticks=now.start_ticks - 1),
        dataclasses.replace(now, boot_id="another boot"),
    ):
        assert not process.is_alive(old)
        assert not process.send(old, signal.SIGKILL)
        assert process.family([old], "no such token") == []
        assert process.end([old], "no such token") == 0
    time.sleep(0.1)
    assert stranger.poll() is None


def test_end_takes_the_family_and_nobody_else(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    leader = start(tmp_path, PARENT, "t2/")
    child = process.identify(int(read_when_there(tmp_path / "log")))
    assert child is not None
    assert int(ps(child.pid, "sid")) == child.pid  # neither session nor token ties it to us, only its parent
    assert {leader, child} <= set(process.family([leader], "t2/"))
    assert process.end([leader], "t2/") == 2
    assert not process.is_alive(leader)
    assert not process.is_alive(child)


def test_orphans_of_a_killed_leader_are_found_by_token(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    spawn = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(120)"
    leader = start(tmp_path, [sys.executable, "-c", spawn, *SLEEP], "t3/s3/")
    orphan = process.identify(int(read_when_there(tmp_path / "log")))
    assert orphan is not None
    os.kill(leader.pid, signal.SIGKILL)
    assert process.wait_until(lambda: not process.is_alive(leader), 10)
    assert process.is_alive(orphan)
    assert process.family([leader], "t3/mlflow/") == []  # another server's token
    assert process.end([], "t3/") == 1  # the stack's
    assert not process.is_alive(orphan)


@pytest.mark.slow
def test_sigkill_after_grace(tmp_path: Path) -> None:
    leader = start(tmp_path, STUBBORN, "t4/")
    assert read_when_there(tmp_path / "log") == "ready"
    begin = time.monotonic()
    assert process.end([leader], "t4/", grace_s=0.2) == 1
    assert time.monotonic() - begin < 10
    assert not process.is_alive(leader)


def test_own_process_is_never_a_member() -> None:
    me = process.identify(os.getpid())
    parent = process.identify(os.getppid())
    assert me is not None
    assert parent is not None
    members = process.family([me, parent], "")
    assert me not in members
    assert parent not in members


def test_zombie_is_dead_and_gets_reaped(tmp_path: Path) -> None:
    leader = start(tmp_path, [sys.executable, "-c", "pass"], "t5/")
    assert process.wait_until(lambda: not process.is_alive(leader), 20)
    assert process.identify(leader.pid) is None  # waited for: no entry left


def test_resident_memory_agrees_with_ps(tmp_path: Path) -> None:
    leader = start(tmp_path, ["sleep", "60"], "t6/")
    try:
        assert process.wait_until(lambda: ps(leader.pid, "comm") == "sleep", 10)
        assert process.resident_mb([leader]) == pytest.approx(int(ps(leader.pid, "rss")) / 1024, rel=0.2)
    finally:
        process.end([leader], "t6/")
