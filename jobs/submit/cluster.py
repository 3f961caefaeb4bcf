"""A cluster's job server: which one, whether it answers and lets us in, and one line for whatever it refuses."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pipeline.common.printable import printable
from pipeline.config.stack import find_stack, ray_token_file
from pipeline.errors import ConfigError, ReciprocalError, UserError

_CONNECT_S = 5.0
_LOUD = ("ray._private.runtime_env.packaging", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED})


def dashboard(given: str) -> str:
    """Address of the cluster's dashboard: the one given, that of ``RAY_API_SERVER_ADDRESS`` (or ``RAY_ADDRESS``, where
    it is one of HTTP), or the local stack's.

    Raises:
        UserError: there is none, or it is no address of HTTP.
    """
    stack = find_stack()
    named = os.environ.get("RAY_API_SERVER_ADDRESS", "") or os.environ.get("RAY_ADDRESS", "")
    address = given or (named if named.startswith("http") else "") or (stack.ray_dashboard if stack else "")
    if not address:
        raise UserError("address: no local stack is up; give --address http://HEAD:8265")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("address", address, "give the dashboard's, such as http://HEAD:8265")
    if parts.password:
        raise ConfigError("address", f"{parts.scheme}://...", "holds a password: give the token by RAY_AUTH_TOKEN_PATH")
    return address.rstrip("/")


def job_client(address: str) -> JobSubmissionClient:
    """A client that the server lets in.

    Raises:
        UserError: nothing answers there, or the token is missing or wrong.
    """
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"no cluster answers at {address} ({error}): check --address, and that the head is up"
        ) from error
    # Ray's own client looks for a token only where RAY_AUTH_MODE was set before it was imported.
    token = _token(address)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    with refusals(address):
        return JobSubmissionClient(address, headers=headers)


def _token(address: str) -> str:
    """What lets this command in: of the environment, or the local stack's; empty: nothing was given."""
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    stack = find_stack()
    if not path and stack is not None and address == stack.ray_dashboard:
        path = str(ray_token_file())
    if not path:
        return ""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("RAY_AUTH_TOKEN_PATH", path, f"cannot be read ({error}): give the cluster's token") from error


@contextlib.contextmanager
def refusals(address: str, job: str = "") -> Iterator[None]:
    """One line for what a job server refuses, or that it went away.

    Raises:
        UserError: no such job, or not let in.
        ReciprocalError: anything else.
    """
    try:
        yield
    except AuthenticationError as error:
        raise _not_let_in(address) from error
    except (OSError, aiohttp.ClientError, RuntimeError, ValueError) as error:  # requests' own are OSErrors
        text = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        if any(word in str(error) for word in ("401", "403", "Unauthorized", "uthentication")):
            raise _not_let_in(address) from error
        if job and ("404" in text or "does not exist" in str(error)):
            raise UserError(
                f"the cluster at {address} has no job {job!r}: `python -m jobs.submit list` shows those it has"
            ) from error
        raise ReciprocalError(f"the cluster at {address}: {text[:300]}") from error


def _not_let_in(address: str) -> UserError:
    return UserError(
        f"the cluster at {address} does not let this command in: the token is missing or wrong; name its file by"
        " RAY_AUTH_TOKEN_PATH"
    )


def state(job: JobDetails) -> str:
    """A job's status, in small letters, with the exit code of one that failed."""
    word = job.status.value.lower()
    failed = job.status == JobStatus.FAILED and job.driver_exit_code is not None
    return f"{word} ({job.driver_exit_code})" if failed else word
