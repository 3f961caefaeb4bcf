"""Ctrl-C and SIGTERM end every command with one line and its exit code, whether or not it has started a Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT

_PLAIN = """
def main():
    print("ready", flush=True)
    time.sleep(60)
"""
_RAY = """
import ray
from jobs.cluster.connect import connect

def main():
    connect()
    task = ray.remote(num_cpus=0)(lambda: time.sleep(60)).remote()
    print("ready", flush=True)
    ray.get(task)
"""
_SCRIPT = """
import atexit, time
from pipeline.common.cli import run_main
{main}
if {slow_end}:
    atexit.register(time.sleep, 60)
run_main(main)
"""
ENDS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


def started(main: str, slow_end: bool = False) -> subprocess.Popen[str]:
    """A command that sleeps, or waits for a task that does."""
    script = _SCRIPT.format(main=main, slow_end=slow_end)
    command = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n", command.communicate()
    return command


@pytest.mark.parametrize(("number", "code", "word"), ENDS)
@pytest.mark.parametrize("main", [_PLAIN, pytest.param(_RAY, marks=pytest.mark.slow)], ids=["plain", "ray"])
def test_a_signal_ends_with_one_line_and_no_process(main: str, number: int, code: int, word: str) -> None:
    command = started(main)
    below = psutil.Process(command.pid).children(recursive=True)
    assert bool(below) == (main is _RAY)
    command.send_signal(number)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == code, errors
    lines = [
        line for line in errors.splitlines() if "Token authentication is enabled" not in line
    ]  # of Ray, at its start
    assert lines == [f"{word}: run the same command again to continue"]
    # A worker that was just starting learns of Ray's end by a time limit of its own.
    assert psutil.wait_procs(below, timeout=90)[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_more_leaves_at_once_and_says_nothing_more(number: int) -> None:
    command = started(_PLAIN, slow_end=True)
    command.send_signal(signal.SIGINT)
    assert command.stderr is not None
    assert command.stderr.readline() == "interrupted: run the same command again to continue\n"
    start_s = time.monotonic()
    command.send_signal(number)
    _, errors = command.communicate(timeout=30)
    assert (command.returncode, errors) == (128 + number, "")
    assert time.monotonic() - start_s < 30


def test_each_command_starts_through_what_handles_signals() -> None:
    mains = [*(ROOT / "jobs").glob("*/__main__.py"), *(ROOT / "jobs").glob("*.py")]
    commands = [path for path in mains if path.name == "__main__.py" or "__main__" in path.read_text()]
    assert len(commands) >= 11
    assert [path for path in commands if "run_main(main" not in Path(path).read_text()] == []
