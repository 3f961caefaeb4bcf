"""The stack as a whole: bring it up, take it down, ask how it is. ``infra.local`` is its command line."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator

from infra import mlflow_server, process, ray_head, s3_gateway
from infra.ports import choose_ports
from infra.records import ServerRecord, Servers, load_servers, locked, write_stack
from infra.server import Launch, Probe, condition, launch, stop, token_of, wait_healthy
from pipeline.config.stack import Stack, stack_file
from pipeline.errors import ConfigError, UserError

log = logging.getLogger(__name__)
_HEAD_PATIENCE_S = 20.0
PARTS = (s3_gateway.NAME, mlflow_server.NAME, ray_head.NAME)


@dataclasses.dataclass(frozen=True)
class ServerState:
    """One row of ``status``; ``state`` is ``healthy`` or what is wrong."""

    name: str
    address: str
    pid: int | None
    state: str
    log: str

    @property
    def healthy(self) -> bool:
        return self.state == "healthy"


def up(*, ray_cpus: int | None = None, timeout_s: float = 120.0) -> Stack:
    """Bring every server of the stack to health, publish their addresses and return them.

    Healthy servers are left alone. MLflow restarts with a bucket that had to move to another port; nodes added to a Ray
    head that died are ended with it and not started again.

    Args:
        ray_cpus: CPUs the Ray head offers, by default all of the host; a running head keeps what it has.
        timeout_s: deadline for all servers together.

    Raises:
        ConfigError: ``ray_cpus`` is below 1.
        UserError: a package is missing, a record is damaged, or the host is no Linux.
        ServerError: a server did not start. What this call started has been ended again.
    """
    if ray_cpus is not None and ray_cpus < 1:
        raise ConfigError("ray_cpus", ray_cpus, "give at least 1, or leave it out for all CPUs of this host")
    with locked():
        return _up(load_servers(), ray_cpus, timeout_s)


def add_node(*, cpus: int = 1, timeout_s: float = 60.0) -> ServerRecord:
    """Start one more Ray node on this host and return its record; ``down`` ends it.

    Raises:
        ConfigError: ``cpus`` is below 1.
        UserError: the Ray head is not healthy.
        ServerError: the node did not start.
    """
    if cpus < 1:
        raise ConfigError("cpus", cpus, "give at least 1")
    with locked():
        servers = load_servers()
        head = _healthy_head(servers)
        _end_stale_nodes(servers)
        index = next(index for index in range(1, 250) if f"{ray_head.NAME}-node-{index}" not in servers.records)
        ports = choose_ports(ray_head.NODE_PORTS, {}, _taken(servers))
        with _ended_on_failure(servers):
            plan = ray_head.launch_node(index, ports, cpus, head)
            record = launch(plan, servers)
            wait_healthy({plan.name: (record, plan.probe)}, timeout_s)
        return record


def _healthy_head(servers: Servers) -> ServerRecord:
    """The record of the Ray head. On a busy machine it may answer late: it is asked again for a while if it runs.

    Raises:
        UserError: there is none, or it does not answer.
    """
    head, problem = servers.records.get(ray_head.NAME), "not started"
    deadline = time.monotonic() + _HEAD_PATIENCE_S
    while head is not None:
        found = condition(head, ray_head.head_problem)
        if found is None:
            return head
        problem = found
        if time.monotonic() >= deadline or not process.is_alive(head.process):
            break
        time.sleep(0.5)
    raise UserError(f"a node needs a healthy Ray head ({problem}): python -m infra.local up")


def down() -> int:
    """End every process this stack started, and no other; return how many there were. Data and logs stay.

    Raises:
        ProcessError: a process does not end.
    """
    with locked():
        stack_file().unlink(missing_ok=True)  # first: no client may be sent to a server that is about to end
        servers = load_servers()
        ended = 0
        for record in reversed(list(servers.records.values())):
            ended += stop(record, servers)
        # A process started just before a crash may be in no record; its environment still names this stack.
        return ended + process.end([], token_of(servers))


def status() -> list[ServerState]:
    """Return the state of every server, those of the stack first; asks each one, takes no lock."""
    records = load_servers().records
    states: list[ServerState] = []
    for name in [*PARTS, *(name for name in records if name not in PARTS)]:
        record = records.get(name)
        if record is None:
            states.append(ServerState(name, "", None, "not started", ""))
        else:
            state = condition(record, _probe_of(name)) or "healthy"
            states.append(ServerState(name, record.address, record.pid, state, record.log))
    return states


def _up(servers: Servers, ray_cpus: int | None, timeout_s: float) -> Stack:
    credentials = s3_gateway.load_credentials()
    waiting: dict[str, tuple[ServerRecord, Probe]] = {}

    def ensure(
        name: str,
        names: tuple[str, ...],
        plan: Callable[[dict[str, int]], Launch],
        wanted: dict[str, str] | None = None,
    ) -> None:
        old = servers.records.get(name)
        if old is not None:
            trouble = condition(old, _probe_of(name))
            if trouble is None and (wanted is None or old.settings == wanted):
                return
            log.info("restarting %s: %s", name, trouble or "what it depends on has moved")
            stop(old, servers)
        _end_stale_nodes(
            servers
        )  # before a new head starts: it refuses the address that a node of the old one still names
        ports = choose_ports(names, old.ports if old else {}, _taken(servers))
        server = plan(ports)
        waiting[name] = (launch(server, servers), server.probe)

    with _ended_on_failure(servers):
        # All start at once and are waited for together: MLflow and Ray take seconds, and neither needs the other's
        # answer.
        ensure(s3_gateway.NAME, s3_gateway.PORTS, lambda ports: s3_gateway.launch(ports, credentials))
        endpoint = servers.records[s3_gateway.NAME].address
        ensure(
            mlflow_server.NAME,
            mlflow_server.PORTS,
            lambda ports: mlflow_server.launch(ports, endpoint, credentials),
            mlflow_server.settings(endpoint),
        )
        ensure(
            ray_head.NAME, ray_head.PORTS, lambda ports: ray_head.launch_head(ports, ray_cpus or os.cpu_count() or 1)
        )
        wait_healthy(waiting, timeout_s)
        s3_gateway.make_bucket(endpoint, credentials)
    head = servers.records[ray_head.NAME]
    if ray_cpus is not None and head.settings["cpus"] != str(ray_cpus):
        log.warning("the running Ray head keeps its %s CPUs; for %d run `down` first", head.settings["cpus"], ray_cpus)
    login = mlflow_server.load_login()
    stack = Stack(
        s3_endpoint=endpoint,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        bucket=s3_gateway.BUCKET,
        mlflow_uri=servers.records[mlflow_server.NAME].address,
        mlflow_user=login.user,
        mlflow_password=login.password,
        ray_address=head.address,
        ray_dashboard=ray_head.dashboard_address(head),
    )
    write_stack(stack)
    return stack


@contextlib.contextmanager
def _ended_on_failure(servers: Servers) -> Iterator[None]:
    """End whatever the block launched if it fails or is interrupted; servers that ran before it stay."""
    before = {record.process for record in servers.records.values()}
    try:
        yield
    except BaseException:
        started = [record for record in servers.records.values() if record.process not in before]
        for record in reversed(started):
            stop(record, servers)
        if any(name not in servers.records for name in PARTS):
            stack_file().unlink(missing_ok=True)
        raise


def _end_stale_nodes(servers: Servers) -> None:
    """Forget nodes that died, or whose head did."""
    head = servers.records.get(ray_head.NAME)
    for name, record in list(servers.records.items()):
        if name in PARTS:
            continue
        if (
            head is None
            or record.settings["head"] != ray_head.head_identity(head)
            or not process.is_alive(record.process)
        ):
            stop(record, servers)


def _probe_of(name: str) -> Probe:
    probes = {
        s3_gateway.NAME: s3_gateway.problem,
        mlflow_server.NAME: mlflow_server.problem,
        ray_head.NAME: ray_head.head_problem,
    }
    return probes.get(name, ray_head.node_problem)


def _taken(servers: Servers) -> set[int]:
    return {port for record in servers.records.values() for port in record.ports.values()}
