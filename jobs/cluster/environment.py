"""Environment of workers: the one list of variables that they get from the driver, and how credentials reach them.

Ray shows a runtime environment to everybody who may look at its dashboard or ask its state API, and writes it into its
logs. So no secret is in it; credentials reach the workers in one of three other ways:

* Local stack: every process on this host reads the stack's record, a file of mode 0600 below ``RECIPROCAL_HOME``.
* Credentials in the driver's environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``;
  ``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD``, ``MLFLOW_TRACKING_TOKEN``), all nodes on this host: the
  driver writes them to files of mode 0600 below ``RECIPROCAL_HOME/credentials``, tells workers their paths, and removes
  them when it ends.
* Nodes on other hosts: the driver's credentials stay with the driver. Every node has its own: the role of its instance
  profile (``ray_cluster.yaml``), or credentials files of the user that ``ray start`` runs as (``~/.aws/credentials``,
  ``~/.mlflow/credentials``).

A submitted job is a driver on the head node, and the same holds for it. Ray shows the entrypoint and the runtime
environment of a job, so neither is a place for a secret; ``jobs.submit --credentials`` lets the entrypoint read a
private file.
"""

from __future__ import annotations

import atexit
import configparser
import contextlib
import fcntl
import io
import json
import logging
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.common.atomic import PREFIX, atomic_file
from pipeline.config.stack import TRACKING_CREDENTIALS_FILE, home, state_folder, tracking_credentials
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

_ADDRESSES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI")
# What holds on every node.
_EVERYWHERE = (
    *_ADDRESSES,
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "RECIPROCAL_COMMIT",
    "RECIPROCAL_S3_DEADLINE_S",
    "RECIPROCAL_STACK",
    "TRITON_INTERPRET",
)
# Paths of this host, and names that its files define.
_THIS_HOST = (
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "TMPDIR",
)
# Read by the code or named in the guides, and not passed on; with the reason.
STAYS = {
    "RAY_ADDRESS": "where this command connects; workers get the address of the cluster that it joined",
    "RAY_API_SERVER_ADDRESS": "where jobs.submit sends a job",
    "RAY_AUTH_MODE": "a worker was started by a Ray that is let in",
    "RAY_AUTH_TOKEN": "a secret, and as above",
    "RAY_AUTH_TOKEN_PATH": "as above",
    "RAY_GCS_SERVER_PORT": "of a Ray that this command starts for itself",
    "RECIPROCAL_TRACKING_CREDENTIALS_FILE": "written for workers where a login is given",
    "RECIPROCAL_AUTOSCALING": "asked before anything is started on the cluster",
    "OMP_NUM_THREADS": "Ray sets it to the CPUs of a task, jobs.train to those of a rank",
    "AWS_ACCESS_KEY_ID": "a secret: by file",
    "AWS_SECRET_ACCESS_KEY": "a secret: by file",
    "AWS_SESSION_TOKEN": "a secret: by file",
    "MLFLOW_TRACKING_USERNAME": "belongs to the secrets: by file",
    "MLFLOW_TRACKING_PASSWORD": "a secret: by file",
    "MLFLOW_TRACKING_TOKEN": "a secret: by file",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "of the tracking server",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "as above",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "a secret of the tracking server",
    "GIT_PYTHON_REFRESH": "set by whoever uses MLflow",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "set by whoever uses MLflow",
}
_KEY_ID, _SECRET, _SESSION_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_MLFLOW_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SECRETS = (_SECRET, _SESSION_TOKEN, *_MLFLOW_SECRETS, "RAY_AUTH_TOKEN")
_MLFLOW_LOGIN = ("MLFLOW_TRACKING_USERNAME", *_MLFLOW_SECRETS)

_locks: list[int] = []  # descriptors: a credentials file is locked for as long as its driver lives


def worker_environment(*, one_host: bool, private: bool = False, address: str = "") -> dict[str, str]:
    """Variables for every worker, as ``env_vars`` of the job's runtime environment.

    Args:
        one_host: whether all nodes of the cluster are on this host.
        private: whether this process starts the cluster: its workers inherit the environment as it is.
        address: of the cluster's control service. Without it parts of Ray that run in workers, such as the one that
            cleans up after a training whose driver was killed, look for a cluster on this host, and may find another.

    Raises:
        ConfigError: an address holds a password.
    """
    variables = shared_variables()
    if address:
        variables["RAY_ADDRESS"] = address
    if one_host:
        variables |= {name: os.environ[name] for name in _THIS_HOST if name in os.environ}
        variables["RECIPROCAL_HOME"] = str(home().absolute())
        root = str(Path(__file__).resolve().parents[2])
        if "site-packages" not in root:  # a checkout: workers run its code, whatever is installed
            variables["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        if os.environ.get(_KEY_ID) and os.environ.get(_SECRET):
            variables["AWS_SHARED_CREDENTIALS_FILE"] = str(_write_private(_aws_credentials()))
            variables[_KEY_ID] = ""  # or the key of a node's own environment would win over the file
        given = {name: os.environ[name] for name in _MLFLOW_LOGIN if os.environ.get(name)}
        if given and not private and not tracking_credentials():
            variables[TRACKING_CREDENTIALS_FILE] = str(_write_private(json.dumps(given)))
    _say_what_stays_here(one_host)
    return variables


def shared_variables() -> dict[str, str]:
    """What holds on every node, of this process's environment. None of it is a secret.

    Raises:
        ConfigError: an address holds a password.
    """
    for name in _ADDRESSES:
        if urlsplit(os.environ.get(name, "")).password:
            raise ConfigError(
                name,
                urlsplit(os.environ[name]).scheme + "://...",
                "holds a password, which Ray would show to everybody who sees its dashboard: give the address alone,"
                " and the password in a file (MLflow: ~/.mlflow/credentials; S3: ~/.aws/credentials)",
            )
    return {name: os.environ[name] for name in _EVERYWHERE if name in os.environ}


def _say_what_stays_here(one_host: bool) -> None:
    if os.environ.get(_SECRET) and not one_host:
        log.warning(
            "%s of this command is not sent to the cluster's nodes, because Ray would show it on its dashboard: they"
            " use their own instance profile or ~/.aws/credentials (see ray_cluster.yaml)",
            _SECRET,
        )
    if not one_host and (names := [name for name in _MLFLOW_SECRETS if os.environ.get(name)]):
        log.warning(
            "%s of this command is not sent to workers, because Ray would show it on its dashboard: workers read"
            " ~/.mlflow/credentials of their node",
            " and ".join(names),
        )


def _aws_credentials() -> str:
    """Those of this process's environment, as a file in the format of ``~/.aws/credentials``."""
    parser = configparser.RawConfigParser()
    parser[os.environ.get("AWS_PROFILE") or "default"] = {
        name.lower(): os.environ[name] for name in (_KEY_ID, _SECRET, _SESSION_TOKEN) if os.environ.get(name)
    }
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _write_private(text: str) -> Path:
    """Write a file that this user alone can read and that goes with this process."""
    folder = state_folder("credentials")
    _remove_abandoned(folder)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
    with atomic_file(path, mode=0o600, replace=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _locks.append(os.dup(file.fileno()))  # the lock stays with the copy
        file.write(text.encode())
    atexit.register(path.unlink, missing_ok=True)
    return path


def _remove_abandoned(folder: Path) -> None:
    """Remove what drivers that were killed left: files that nobody has locked."""
    for path in folder.iterdir():
        if not path.name.startswith(PREFIX):
            with contextlib.suppress(OSError), path.open("rb") as file:  # OSError: its driver lives, or just ended
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
