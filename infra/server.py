"""One server of the local stack: how it is launched, watched until it is healthy, and reported when it is not."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra import process
from infra.records import ServerRecord, Servers
from pipeline.config.stack import home, state_folder
from pipeline.errors import ReciprocalError

# Addresses and credentials of whatever the calling shell talks to. Servers get theirs from us, and jobs on the local
# Ray must find the local stack's record: the stack is the same whatever shell starts it.
_FOREIGN_PREFIXES = ("AWS_", "MLFLOW_", "MINIO_", "RAY_")
_LOOPBACK_HOSTS = "127.0.0.1,localhost"
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Probe = Callable[[ServerRecord], str | None]
"""Returns None where the server answers as it should, else what is wrong, as a short phrase."""


class ServerError(ReciprocalError):
    """A server did not start.

    Args:
        name: which one.
        reason: what was seen.
        log: path of its log.
        tail: the log's last lines.
    """

    def __init__(self, name: str, reason: str, log: str, tail: str) -> None:
        super().__init__(name, reason, log, tail)

    def __str__(self) -> str:
        name, reason, log, tail = self.args
        return f"{name} did not start: {reason}. The end of {log}:\n{tail or '(empty)'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """A server about to be started."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]  # on top of the cleaned environment of this process
    cwd: Path
    address: str
    ports: dict[str, int]
    settings: dict[str, str]
    probe: Probe


def token_of(servers: Servers, name: str = "") -> str:
    """Return what the environment token of one server (or, without a name, of every server) begins with."""
    return f"{servers.token}/{name}/" if name else f"{servers.token}/"


def launch(server: Launch, servers: Servers) -> ServerRecord:
    """Start the server, note it in ``servers`` and on disk, and return at once.

    Raises:
        ServerError: its program cannot be executed.
    """
    log = state_folder("logs") / f"{server.name}.log"
    with log.open("a") as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} starting {server.name} at {server.address}\n")
    log.chmod(0o600)
    state_folder(*server.cwd.absolute().relative_to(home().absolute()).parts)
    env = {**clean_environment(), **server.env, process.TOKEN_VARIABLE: token_of(servers, server.name)}
    # the token is on disk before anything carries it: even a crash right after the start leaves nothing behind
    servers.save()
    try:
        identity = process.start(server.command, env=env, cwd=server.cwd, log=log)
    except OSError as error:
        raise ServerError(server.name, str(error), str(log), tail(log)) from error
    record = ServerRecord(
        name=server.name,
        address=server.address,
        ports=server.ports,
        pid=identity.pid,
        start_ticks=identity.start_ticks,
        boot_id=identity.boot_id,
        log=str(log),
        settings=server.settings,
    )
    servers.records[server.name] = record
    servers.save()
    return record


def wait_healthy(waiting: Mapping[str, tuple[ServerRecord, Probe]], timeout_s: float) -> None:
    """Wait until every server answers, all of them within one deadline.

    Raises:
        ServerError: one has exited, or does not answer in time; the message ends with the last lines of its log.
    """
    pending = dict(waiting)
    reasons: dict[str, str] = {}
    deadline = time.monotonic() + timeout_s
    while True:
        for name, (record, probe) in list(pending.items()):
            if not process.is_alive(record.process):
                raise ServerError(name, "its process has ended", record.log, tail(Path(record.log)))
            reason = probe(record)
            if reason is None:
                del pending[name]
            else:
                reasons[name] = reason
        if not pending:
            return
        if time.monotonic() >= deadline:
            name, (record, _) = next(iter(pending.items()))
            raise ServerError(
                name, f"not healthy after {timeout_s:g} s ({reasons[name]})", record.log, tail(Path(record.log))
            )
        time.sleep(0.2)


def condition(record: ServerRecord, probe: Probe) -> str | None:
    """Return None for a healthy server, else what is wrong with it."""
    return probe(record) if process.is_alive(record.process) else "not running"


def stop(record: ServerRecord, servers: Servers) -> int:
    """End one server with all its processes and forget it; return how many processes that were."""
    ended = process.end([record.process], token_of(servers, record.name))
    servers.records.pop(record.name, None)
    servers.save()
    return ended


def tail(path: Path, lines: int = 25, *, max_bytes: int = 65_536) -> str:
    """Return the last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def http_problem(url: str, *, expect: str = "", timeout_s: float = 3.0, token: str = "") -> str | None:
    """Return None where ``url`` answers 200 with ``expect`` in its body, else what came instead. Proxies are not used.

    ``token``, if given, goes along as bearer token.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with _NO_PROXY.open(request, timeout=timeout_s) as answer:
            body = answer.read(65_536).decode(errors="replace")
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code} from {url}"
    except (OSError, ValueError) as error:  # refused, timed out, reset, not HTTP
        return f"no answer from {url} ({error})"
    return None if expect in body else f"unexpected answer from {url}"


def clean_environment() -> dict[str, str]:
    """Return this process's environment without foreign addresses and credentials, and with proxies off for loopback.

    The folder of this Python comes first on PATH: ``ray job submit -- python ...`` must get the interpreter that has
    the project's packages, whether or not its virtual environment was activated in the shell that started the stack.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_PREFIXES)}
    env.pop("RECIPROCAL_STACK", None)
    for key in ("NO_PROXY", "no_proxy"):
        env[key] = f"{env[key]},{_LOOPBACK_HOSTS}" if env.get(key) else _LOOPBACK_HOSTS
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["RECIPROCAL_HOME"] = str(home().absolute())
    return env
