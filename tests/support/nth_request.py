"""Commands in processes of their own that reach S3 through a proxy which does one thing at the n-th request: fails from
then on, cuts the body, or has the process killed before or after the server does what was asked.

    with ForkedCommands() as forked, MemoryS3() ..., NthRequest(server.endpoint) as proxy:
        proxy.begin("killed after", 7)
        code = forked.run(command, proxy, argument)    # command: a function of a module; 0, 1 for an error, -9 killed

Processes are forked from one that has imported what commands need, so that one costs milliseconds.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from pipeline.errors import ReciprocalError
from pipeline.storage.s3_client import s3_client
from tests.support.fault_proxy import FaultProxy
from tests.support.http_wire import Reader

WAYS = ("503", "cut", "killed before", "killed after")
_DEADLINE_S, _FAILING_DEADLINE_S = 30.0, 0.5  # of a request; to a server that fails for good, time says nothing
_COMMAND_S = 300.0


class NthRequest(FaultProxy):
    """Counts requests from ``begin`` on, and does its one thing at the n-th."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.kill: Callable[[], None] = lambda: None
        self._counting = threading.Lock()
        self.begin("", 0)

    def begin(self, way: str, at: int) -> None:
        """Count from 0; ``way`` is one of ``WAYS``, or empty: nothing happens."""
        self.count, self._way, self._at = 0, way, at

    @property
    def deadline_s(self) -> float:
        """What a request of a client may take."""
        return _FAILING_DEADLINE_S if self._way == "503" else _DEADLINE_S

    def _next_fault(self, method: str, path: str) -> str | None:
        with self._counting:
            self.count += 1
            count, way = self.count, self._way
        if way == "503" and count >= self._at:
            return "slow_down"
        if count != self._at or not way:
            return None
        if way == "cut":
            return "cut_upload" if method in ("PUT", "POST") else "cut_answer"
        if way == "killed before":
            self.kill()
            return "reset"
        return "lose_answer"

    def _answer(self, client: socket.socket, reader: Reader, method: str, fault: str | None, chance: Any) -> bool:
        try:
            return super()._answer(client, reader, method, fault, chance)
        finally:
            if fault == "lose_answer":  # its answer has arrived: the server has done it
                self.kill()


class ForkedCommands:
    """Runs functions in processes of their own, one at a time, each with the same TMPDIR."""

    def __init__(self, *preload: str) -> None:
        """``preload``: modules that the processes are forked with."""
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self.temporary = Path(tempfile.mkdtemp(prefix="commands-"))
        self._log = self.temporary.with_name(f"{self.temporary.name}.log")

    def __enter__(self) -> ForkedCommands:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.temporary)
        self._log.unlink(missing_ok=True)

    @property
    def output(self) -> str:
        """What the last command printed."""
        return self._log.read_text(errors="replace")

    def run(self, command: Callable[..., object], proxy: NthRequest, *arguments: object) -> int:
        """Its exit code: 0; 1 where it ended with one of our errors, 3 with another; -9 where the proxy killed it."""
        process: ForkServerProcess = self._context.Process(
            target=_run, args=(proxy.endpoint, proxy.deadline_s, str(self.temporary), command, arguments), daemon=True
        )
        process.start()
        assert process.pid is not None
        proxy.kill = _killer(process.pid)
        process.join(_COMMAND_S)
        proxy.kill = lambda: None
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{command.__qualname__} did not end within {_COMMAND_S:.0f} s\n{self.output}")
        return process.exitcode

    def left(self) -> list[str]:
        """What lies in TMPDIR, besides torch's cache."""
        return sorted(path.name for path in self.temporary.iterdir() if not path.name.startswith("torchinductor_"))


def _killer(pid: int) -> Callable[[], None]:
    return lambda: os.kill(pid, signal.SIGKILL)


def environment(endpoint: str) -> dict[str, str]:
    """Variables with which ``pipeline.storage`` finds a server that lets everybody in."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
        "RECIPROCAL_STACK": "off",
    }


def _run(
    endpoint: str, deadline_s: float, temporary: str, command: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.environ |= {**environment(endpoint), "RECIPROCAL_S3_DEADLINE_S": str(deadline_s), "TMPDIR": temporary}
    tempfile.tempdir = None
    s3_client(60.0)  # made within the first request, it would take a good part of a short deadline
    with open(f"{temporary}.log", "w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    faulthandler.dump_traceback_later(_COMMAND_S - 10)
    try:
        command(*arguments)
    except ReciprocalError as error:
        print(error, flush=True)
        sys.exit(1)
    except BaseException:
        traceback.print_exc()
        sys.exit(3)
