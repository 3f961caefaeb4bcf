"""The stack's S3 gateway alone, without MLflow and Ray, for tests that kill it and bring it back."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from infra import s3_gateway
from infra.ports import LOOPBACK, choose_ports

_START_S = 60.0


@dataclasses.dataclass
class Gateway:
    """A running gateway; ``environment`` lets boto3 in."""

    endpoint: str
    bucket: str
    environment: dict[str, str]
    _ports: dict[str, int]
    _child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, at the same port as before, and wait until it answers."""
        credentials = s3_gateway.load_credentials()
        plan = s3_gateway.launch(self._ports, credentials)
        with (plan.cwd / "gateway.log").open("ab") as log:
            self._child = subprocess.Popen(
                plan.command,
                env={**os.environ, **plan.env},
                cwd=plan.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        while trouble := _problem(self.endpoint):
            if self._child.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(
                    "the gateway did not start:"
                    f" {trouble}\n{(plan.cwd / 'gateway.log').read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to it and what it started."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None


def _problem(endpoint: str) -> str | None:
    try:
        s3_gateway.client(endpoint, s3_gateway.load_credentials()).list_buckets()
    except Exception as error:  # whatever it is, it is what a failing test shows
        return str(error)
    return None


@contextlib.contextmanager
def started_gateway(home: Path) -> Iterator[Gateway]:
    """A gateway whose state lies below ``home``, ended at last. RECIPROCAL_HOME is changed for the time."""
    before = os.environ.get("RECIPROCAL_HOME")
    os.environ["RECIPROCAL_HOME"] = str(home)
    gateway = None
    try:
        ports = choose_ports(s3_gateway.PORTS, {}, set())
        credentials, endpoint = s3_gateway.load_credentials(), f"http://{LOOPBACK}:{ports['s3']}"
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": s3_gateway.REGION,
        }
        gateway = Gateway(endpoint, s3_gateway.BUCKET, environment, ports)
        gateway.start()
        s3_gateway.make_bucket(endpoint, credentials)
        yield gateway
    finally:
        if gateway is not None:
            gateway.kill()
        if before is None:
            os.environ.pop("RECIPROCAL_HOME")
        else:
            os.environ["RECIPROCAL_HOME"] = before
