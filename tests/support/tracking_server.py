"""A tracking server alone, without the rest of the stack, for tests that kill it, stop it and bring it back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from infra.ports import LOOPBACK, choose_ports

_START_S = 90.0


class TrackingServer:
    """``mlflow server`` over SQLite in ``folder``, with artifacts there too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = choose_ports(("http",), {})["http"]
        self.address = f"http://{LOOPBACK}:{self._port}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, at the same address as before, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self._folder / "artifacts")]
        settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._child = subprocess.Popen(
                command,
                env={**os.environ, **settings},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > until:
                self.kill()
                text = (self._folder / "server.log").read_text(errors="replace")
                raise AssertionError(f"the tracking server did not start:\n{text[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.read() == b"OK"
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL to it and what it started."""
        if self._child is not None:
            self._signal(signal.SIGKILL)
            self._child.wait()
            self._child = None

    def freeze(self) -> None:
        """SIGSTOP: connections are taken, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)


@contextlib.contextmanager
def started_tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """One that is ended at last."""
    server = TrackingServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
