"""Where the servers are: read from the environment, or from the local stack's record.

``python -m infra.local up`` writes the record; every command reads it through ``find_stack``. The
environment wins as a whole: with ``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT_URL_S3`` set, the local stack's
S3 server and its credentials are not used; with ``MLFLOW_TRACKING_URI`` set, its MLflow is not; with
``RAY_ADDRESS`` set, its Ray is not. ``RECIPROCAL_STACK=off`` ignores the record altogether.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from pathlib import Path

from pipeline.common.atomic import write_atomically
from pipeline.errors import UserError

_OFF = {"off", "0", "no"}
TRACKING_CREDENTIALS_FILE = "RECIPROCAL_TRACKING_CREDENTIALS_FILE"
"""Variable with which a driver tells its workers on the same host where its credentials for MLflow are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """Addresses and credentials of one running local stack (loopback addresses alone)."""

    s3_endpoint: str  # http://127.0.0.1:PORT
    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    bucket: str  # created by ``up``
    mlflow_uri: str
    mlflow_user: str = ""  # empty in records of servers that ask for no password, which older versions started
    mlflow_password: str = dataclasses.field(default="", repr=False)
    ray_address: str  # 127.0.0.1:PORT of the head's control service
    ray_dashboard: str  # http://127.0.0.1:PORT, also the address for ``ray job submit``


def home() -> Path:
    """Folder of the local stack's state: ``$RECIPROCAL_HOME``, default ``~/.reciprocal``."""
    return Path(os.environ.get("RECIPROCAL_HOME") or Path.home() / ".reciprocal")


def state_folder(*parts: str) -> Path:
    """A folder below ``home()``, made where it is missing. ``home()`` and the folder are their user's alone (0700),
    whoever made them first and whatever the umask is: they hold credentials, videos and databases.

    Raises:
        UserError: ``home()`` belongs to another user, who could read and replace what is in it.
    """
    root = home().absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = root.joinpath(*parts)
    for path in [root, *reversed([p for p in folder.parents if p.is_relative_to(root) and p != root]), folder]:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
        if os.getuid() not in (0, found.st_uid):  # root may use a folder that was mounted for it
            raise UserError(f"{path} belongs to another user: set RECIPROCAL_HOME to a folder of your own")
        if found.st_mode & 0o077:
            path.chmod(0o700)
    return folder


def stack_file() -> Path:
    """The record of the running stack; readable by its user alone, because it holds credentials."""
    return home() / "stack.json"


def find_stack() -> Stack | None:
    """Return the recorded local stack, or None where none is recorded or ``RECIPROCAL_STACK=off``.

    Raises:
        UserError: the record cannot be read as one.
    """
    if os.environ.get("RECIPROCAL_STACK", "").lower() in _OFF:
        return None
    path = stack_file()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        return Stack(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a stack record ({error}); run `python -m infra.local down` and `up`") from error


def s3_settings() -> dict[str, str]:
    """Keyword arguments for a boto3 client. Empty where boto3's own chain (environment, profile, role) decides."""
    if os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"):
        return {}
    stack = find_stack()
    if stack is None:
        return {}
    return {
        "endpoint_url": stack.s3_endpoint,
        "aws_access_key_id": stack.access_key,
        "aws_secret_access_key": stack.secret_key,
        "region_name": "us-east-1",
    }


def tracking_uri() -> str | None:
    """MLflow's address: ``MLFLOW_TRACKING_URI``, else the local stack's, else None."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    stack = find_stack()
    return stack.mlflow_uri if stack else None


def tracking_credentials() -> dict[str, str]:
    """What MLflow's client needs in its environment to be let in by the local stack's server.

    Where another server is meant, what the driver of this worker had in its environment (``MLFLOW_TRACKING_USERNAME``
    and ``MLFLOW_TRACKING_PASSWORD``, or ``MLFLOW_TRACKING_TOKEN``), and empty in a driver: MLflow finds it there.
    """
    stack = find_stack()
    if stack is None or not stack.mlflow_password or tracking_uri() != stack.mlflow_uri:
        file = os.environ.get(TRACKING_CREDENTIALS_FILE)
        return json.loads(Path(file).read_text()) if file else {}
    return {"MLFLOW_TRACKING_USERNAME": stack.mlflow_user, "MLFLOW_TRACKING_PASSWORD": stack.mlflow_password}


def ray_address() -> str | None:
    """Ray's address: ``RAY_ADDRESS``, else the local stack's, else None (a private Ray is started)."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    stack = find_stack()
    return stack.ray_address if stack else None


def ray_token_file() -> Path:
    """The token that Ray clusters of this state folder ask for; readable by its user alone. Made where there is
    none.
    """
    path = home().absolute() / "ray-token"
    if not path.exists():
        state_folder()
        # A process that was faster keeps its token: others may have read it already.
        with contextlib.suppress(FileExistsError):
            write_atomically(path, secrets.token_hex(32).encode(), mode=0o600, replace=False)
    return path


def ray_authentication() -> dict[str, str]:
    """Environment of every process that joins or submits to a Ray of this state folder.

    Ray's RPC ports are bound to all interfaces, and without a token anyone who reaches them can run code as this user.
    Empty where another cluster or token is meant: ``RAY_ADDRESS``, ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``
    or ``RECIPROCAL_STACK=off`` is set, or ``RAY_AUTH_MODE`` is something else than token.
    """
    off = os.environ.get("RECIPROCAL_STACK", "").lower() in _OFF
    others = any(os.environ.get(name) for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if off or others or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_token_file())}
