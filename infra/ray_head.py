"""The cluster: one Ray head with its dashboard, and more nodes on the same host for tests.

    ray start --head --block --node-ip-address 127.0.0.2 --port GCS --dashboard-host 127.0.0.1 --dashboard-port PORT ...
    ray start --block --address 127.0.0.2:GCS --node-ip-address 127.0.0.3 ...

``--block`` keeps one process per node that watches the others, and ends them all when one dies or when it is asked to
end.

Nodes live at 127.0.0.2, 127.0.0.3, ...: Ray replaces the address 127.0.0.1 by the host's outside address, where its
HTTP agent would take jobs from the whole network, and which changes when a laptop changes networks. Any other loopback
address is left alone, needs nothing set up on Linux, and gives each node of a test cluster an address of its own.

Ray's RPC ports (not the dashboard, not the agents) are bound to all interfaces whatever it is told, and who reaches
them may run code as this user. So the head asks every client for a token, which lies in a file of this user's alone
(``pipeline.config.stack.ray_token_file``); our jobs send it by themselves, the dashboard page asks for it once, and
``eval "$(python -m infra.local env)"`` gives it to ``ray job submit``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from pathlib import Path

from infra.ports import LOOPBACK
from infra.records import ServerRecord
from infra.server import Launch, http_problem
from pipeline.config.stack import home, ray_token_file
from pipeline.errors import UserError

NAME = "ray"
PORTS = ("gcs", "dashboard", "agent", "client")
NODE_PORTS = ("agent",)
OBJECT_STORE_MB = 512  # video bytes never travel through it; results and small tensors do

# The longest socket path Ray makes below its folder, and what Linux allows (sun_path has 108 bytes, the last is a
# zero).
_LONGEST_BELOW = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
_UNIX_PATH_BYTES = 107
_KEPT_SESSIONS = 2


def node_address(index: int) -> str:
    """Return the loopback address of node ``index``; the head is 0."""
    return f"127.0.0.{2 + index}"


def launch_head(ports: dict[str, int], cpus: int) -> Launch:
    """Return how to start the head.

    Raises:
        UserError: its folder cannot be used.
    """
    folder = temporary_folder()
    _forget_old_sessions(folder)
    command = [
        *_ray_start(node_address(0), cpus, ports["agent"]),
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
        address=f"{node_address(0)}:{ports['gcs']}",
        ports=ports,
        settings={"cpus": str(cpus)},
        probe=head_problem,
    )


def launch_node(index: int, ports: dict[str, int], cpus: int, head: ServerRecord) -> Launch:
    """Return how to start node ``index`` (from 1) of the cluster of ``head``."""
    return Launch(
        name=f"{NAME}-node-{index}",
        command=[
            *_ray_start(node_address(index), cpus, ports["agent"]),
            "--address",
            head.address,
            "--disable-usage-stats",
        ],
        env=_environment(),
        cwd=home().absolute() / "ray-jobs",
        address=node_address(index),
        ports=ports,
        settings={"cpus": str(cpus), "head": head_identity(head)},
        probe=node_problem,
    )


def _environment() -> dict[str, str]:
    return {"RAY_TRAIN_V2_ENABLED": "1", "PYTHONUNBUFFERED": "1", **authentication()}


def authentication() -> dict[str, str]:
    """Return what a process needs in its environment to be let in by the head."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_token_file())}


def head_identity(head: ServerRecord) -> str:
    """Name one life of the head: its nodes cannot outlive it."""
    return f"{head.pid}:{head.start_ticks}"


def dashboard_address(record: ServerRecord) -> str:
    return f"http://{LOOPBACK}:{record.ports['dashboard']}"


def head_problem(record: ServerRecord) -> str | None:
    """Return None where control service, dashboard and node daemon of the head all answer."""
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
    """Return Ray's folder for sockets, logs and spilled objects: below ``home()/ray``, or below /tmp where that is too
    long.

    Ray opens the folder it is given to everybody (mode 0777); the one above it, private, keeps everybody out.

    Raises:
        UserError: the folder in /tmp belongs to somebody else.
    """
    private = home().absolute() / "ray"
    if len(os.fsencode(str(private / "r"))) + len(_LONGEST_BELOW) <= _UNIX_PATH_BYTES:
        private.mkdir(parents=True, exist_ok=True)
        private.chmod(0o700)
    else:
        # Not tempfile.gettempdir(): TMPDIR may be as long as home(). The hash keeps two stacks of one user apart.
        digest = hashlib.sha256(os.fsencode(str(home().absolute()))).hexdigest()[:8]
        private = Path("/tmp") / f"rcp-{os.getuid()}-{digest}"
        private.mkdir(exist_ok=True, mode=0o700)
        found = private.lstat()  # /tmp is everybody's: the name may have been taken, by a link even
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UserError(
                f"{private} is not this user's private folder: remove it, or set RECIPROCAL_HOME to a shorter path"
            )
    folder = private / "r"
    folder.mkdir(exist_ok=True)
    return folder


def _ray_start(address: str, cpus: int, agent_port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--node-ip-address",
        address,
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


def _forget_old_sessions(folder: Path) -> None:
    """Keep the newest sessions' logs; Ray itself removes none."""
    sessions = sorted(path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for path in sessions[:-_KEPT_SESSIONS]:
        shutil.rmtree(path, ignore_errors=True)
