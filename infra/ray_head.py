"""The cluster: one Ray head with its dashboard, and more nodes on the same host for tests.

    ray start --head --block --node-ip-address 127.0.0.1 --port GCS --dashboard-host 127.0.0.1 --dashboard-port PORT ...
    ray start --block --address 127.0.0.1:GCS --node-ip-address 127.0.0.1 ...

``--block`` keeps one process per node that watches the others, and ends them all when one dies or when it is asked to
end.

All of it listens on 127.0.0.1 alone (``pipeline.config.ray_local.RAY_BINDING`` says how). Other users of the host still
reach that, and who reaches Ray's RPC ports may run code as this user. So the head asks every client for a token, which
lies in a file of this user's alone (``pipeline.config.stack.ray_token_file``); our jobs send it by themselves, the
dashboard page asks for it once, and ``eval "$(python -m infra.local env)"`` gives it to ``ray job submit``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.records import ServerRecord
from infra.server import Launch, http_problem
from pipeline.config.ray_local import LOOPBACK, RAY_BINDING, forget_old_sessions, ray_folder
from pipeline.config.stack import home, ray_token_file

NAME = "ray"
PORTS = ("gcs", "dashboard", "agent", "client")
NODE_PORTS = ("agent",)
_JOIN = Path(__file__).with_name("ray_join.py")
_NICENESS = "RAY_worker_niceness"  # of workers; unless it is set Ray takes 15, and any busy program holds them up
OBJECT_STORE_MB = 512  # video bytes never travel through it; results and small tensors do


def launch_head(ports: dict[str, int], cpus: int) -> Launch:
    """Return how to start the head.

    Raises:
        UserError: its folder cannot be used.
    """
    folder = temporary_folder()
    forget_old_sessions(folder)
    command = [
        *_ray_start(("-m", "ray.scripts.scripts"), cpus, ports["agent"]),
        "--head",
        "--port",
        str(ports["gcs"]),
        "--temp-dir",
        str(folder),
        "--disable-usage-stats",
        "--include-dashboard",
        "true",
        "--dashboard-host",
        LOOPBACK,
        "--dashboard-port",
        str(ports["dashboard"]),
        "--ray-client-server-port",
        str(ports["client"]),  # cannot be turned off; its default port is fixed and would clash
        "--no-monitor",  # the autoscaler's process, which has nothing to scale here
    ]
    return Launch(
        name=NAME,
        command=command,
        env=_environment(),
        cwd=home().absolute() / "ray-jobs",
        address=f"{LOOPBACK}:{ports['gcs']}",
        ports=ports,
        settings={"cpus": str(cpus)},
        probe=head_problem,
    )


def launch_node(index: int, ports: dict[str, int], cpus: int, head: ServerRecord) -> Launch:
    """Return how to start node ``index`` (from 1) of the cluster of ``head``."""
    return Launch(
        name=f"{NAME}-node-{index}",
        command=[
            *_ray_start(("-P", str(_JOIN)), cpus, ports["agent"]),
            "--num-gpus",
            "0",  # it would declare the host's once more: they are the head's
            "--address",
            head.address,
            "--disable-usage-stats",
        ],
        env=_environment(),
        cwd=home().absolute() / "ray-jobs",
        address=LOOPBACK,
        ports=ports,
        settings={"cpus": str(cpus), "head": head_identity(head)},
        probe=node_problem,
    )


def _environment() -> dict[str, str]:
    wished = {name: os.environ[name] for name in (_NICENESS,) if name in os.environ}
    return {"RAY_TRAIN_V2_ENABLED": "1", "PYTHONUNBUFFERED": "1", **wished, **authentication()}


def authentication() -> dict[str, str]:
    """Return what a process needs in its environment to be let in by the head, and to look for it on 127.0.0.1."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_token_file()), **RAY_BINDING}


def head_identity(head: ServerRecord) -> str:
    """Name one life of the head: its nodes cannot outlive it."""
    return f"{head.pid}:{head.start_ticks}"


def dashboard_address(record: ServerRecord) -> str:
    return f"http://{LOOPBACK}:{record.ports['dashboard']}"


def head_problem(record: ServerRecord) -> str | None:
    """Return None where control service, dashboard and node daemon of the head all answer."""
    if record.address.rpartition(":")[0] != LOOPBACK:
        return "it listens on all interfaces, as older versions started it"
    dashboard = dashboard_address(record)
    return (
        http_problem(f"{dashboard}/api/version", expect="ray_version", token=_token())
        or http_problem(f"{dashboard}/api/gcs_healthz", expect="success", token=_token())
        or node_problem(record)
    )


def node_problem(record: ServerRecord) -> str | None:
    """Return None where the node's daemon answers through its agent."""
    return http_problem(
        f"http://{LOOPBACK}:{record.ports['agent']}/api/local_raylet_healthz", expect="success", token=_token()
    )


def _token() -> str:
    return ray_token_file().read_text().strip()


def temporary_folder() -> Path:
    """Return the head's folder; see ``ray_folder``."""
    return ray_folder("r")


def _ray_start(program: tuple[str, ...], cpus: int, agent_port: int) -> list[str]:
    return [
        sys.executable,
        *program,
        "start",
        "--block",
        "--node-ip-address",
        LOOPBACK,
        "--num-cpus",
        str(cpus),
        "--object-store-memory",
        str(OBJECT_STORE_MB << 20),
        "--dashboard-agent-listen-port",
        str(agent_port),
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",  # the kernel chooses: the default range clashes with other clusters
    ]
