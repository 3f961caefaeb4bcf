"""The tracking server and model registry: one MLflow process over SQLite, with artifacts in the S3 bucket.

    mlflow server --app-name basic-auth --backend-store-uri sqlite:///HOME/mlflow/mlflow.db --serve-artifacts \\
        --artifacts-destination s3://reciprocal/mlflow --host 127.0.0.1 --port PORT --workers 1

Every request but the health check needs the one user's password, which is made up at the first start and lies in a file
of mode 0600. Clients send artifacts to the server and the server to the bucket, so that clients need no S3 credentials;
``infra.mlflow_guard`` keeps the server to that bucket. In production the place of SQLite is PostgreSQL.
"""

from __future__ import annotations

import base64
import configparser
import dataclasses
import io
import os
import secrets
import sys
from pathlib import Path

from infra.ports import LOOPBACK
from infra.records import ServerRecord, kept_secret, write_private
from infra.s3_gateway import BUCKET, REGION, Credentials
from infra.server import Launch, http_problem
from pipeline.config.stack import home, state_folder

NAME = "mlflow"
PORTS = ("http",)
USER = "reciprocal"
_CONFIG = "basic_auth.ini"


def settings(s3_endpoint: str) -> dict[str, str]:
    """What a running server depends on: it learns the bucket's address at its start and at no other time."""
    return {"s3_endpoint": s3_endpoint, "user": USER}


@dataclasses.dataclass(frozen=True)
class Login:
    user: str
    password: str = dataclasses.field(repr=False)


def login_file() -> Path:
    """The server's user and password, readable by its user alone."""
    return home() / "mlflow" / "credentials.json"


def load_login() -> Login:
    """Return the server's user and password: made up on the first call, the same ever after.

    Raises:
        UserError: the file is damaged.
    """
    return Login(**kept_secret(login_file(), lambda: {"user": USER, "password": secrets.token_urlsafe(30)}))


def _webhook_key() -> str:
    """What the secrets of webhooks are encrypted with: without a kept one, MLflow makes one up at every start, and
    cannot read those that it stored before.
    """
    file = home() / "mlflow" / "webhooks.json"
    return kept_secret(file, lambda: {"key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()})["key"]


def launch(ports: dict[str, int], s3_endpoint: str, credentials: Credentials) -> Launch:
    """Return how to start the server. The bucket is used by the first artifact, so it may still be missing now."""
    folder = state_folder("mlflow")
    login = _prepare(folder)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        "basic-auth",
        "--host",
        LOOPBACK,
        "--port",
        str(ports["http"]),
        "--workers",
        "1",  # each costs 200 MB and more; SQLite writes one at a time anyway
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--serve-artifacts",
        "--artifacts-destination",
        f"s3://{BUCKET}/mlflow",
    ]
    env = {
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        # The gateway does not know the trailing checksums which boto3 adds by default.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs for LLM evaluation; two more processes
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / _CONFIG),
        "MLFLOW_AUTH_ADMIN_USERNAME": login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",  # or pages that its authors forgot would be open
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": _webhook_key(),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),  # of the one form it shows
        # Where infra.mlflow_guard is found, whatever the working folder is.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    return Launch(
        name=NAME,
        command=command,
        env=env,
        cwd=folder,
        address=f"http://{LOOPBACK}:{ports['http']}",
        ports=ports,
        settings=settings(s3_endpoint),
        probe=problem,
    )


def _prepare(folder: Path) -> Login:
    """Write what the server reads at its start, and return its user and password."""
    users = folder / "users.db"
    if not login_file().exists():
        users.unlink(missing_ok=True)  # it knows the old password: MLflow takes a new one for a new user alone
    for database in (folder / "mlflow.db", users):
        database.touch(mode=0o600)
        database.chmod(0o600)  # SQLite keeps it, for its journal too
    config = configparser.RawConfigParser()
    config["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{users}".replace("%", "%%"),
        "authorization_function": "infra.mlflow_guard:authenticate_request",
        "auth_cache_ttl_seconds": "600",  # a password costs tens of milliseconds to check
    }
    text = io.StringIO()
    config.write(text)
    write_private(folder / _CONFIG, text.getvalue())
    return load_login()


def problem(record: ServerRecord) -> str | None:
    """Return None where the server answers. Its security layer sees the Host header that clients send."""
    return http_problem(f"{record.address}/health", expect="OK")
