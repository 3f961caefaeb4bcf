"""How a Ray that runs on this host alone is kept to itself: which address it listens on, and where its files lie.

The local stack's cluster and the private Ray that a command starts where there is no cluster both go by this.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import psutil

from pipeline.config.stack import home, state_folder
from pipeline.errors import UserError

LOOPBACK = "127.0.0.1"
RAY_BINDING = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment that makes every process of a Ray on this host listen on 127.0.0.1 and nowhere else.

Ray binds to all interfaces unless its node's address is 127.0.0.1 itself, and replaces that by the host's outside
address unless it is told that a cluster of several hosts is out of the question: what it assumes on Windows and macOS,
and what this variable says on Linux. Servers and drivers both need it, before they import Ray.
"""

# The longest socket path Ray makes below its folder, and what Linux allows (sun_path has 108 bytes, the last is a
# zero).
_LONGEST_BELOW = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
_UNIX_PATH_BYTES = 107
_KEPT_SESSIONS = 2


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this host alone, so that all nodes of the cluster are here. A Ray client's
    address (ray://) says nothing: a tunnel may begin there.
    """
    host = address.rpartition(":")[0].strip("[]")
    return host.startswith("127.") or host in ("localhost", "::1")


def ray_binding() -> dict[str, str]:
    """``RAY_BINDING``, or nothing where ``RAY_ADDRESS`` names a cluster that may have other hosts."""
    address = os.environ.get("RAY_ADDRESS", "")
    elsewhere = address not in ("", "local") and not is_loopback(address)
    return {} if elsewhere else dict(RAY_BINDING)


def ray_folder(name: str) -> Path:
    """Ray's folder for sockets, logs and spilled objects: below ``home()/ray``, or below /tmp where that is too long.

    Ray opens the folder it is given to everybody (mode 0777); the one above it, private, keeps everybody out.

    Args:
        name: one letter: the folder's own name.

    Raises:
        UserError: the folder in /tmp belongs to somebody else.
    """
    private = home().absolute() / "ray"
    if len(os.fsencode(str(private / name))) + len(_LONGEST_BELOW) <= _UNIX_PATH_BYTES:
        state_folder("ray")
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
    folder = private / name
    folder.mkdir(exist_ok=True)
    return folder


def forget_old_sessions(folder: Path) -> None:
    """Keep the newest sessions' logs, and sessions whose process lives; Ray itself removes none."""
    sessions = sorted(path for path in folder.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for path in sessions[:-_KEPT_SESSIONS]:
        pid = path.name.rpartition("_")[2]  # of the process that began it
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(path, ignore_errors=True)
