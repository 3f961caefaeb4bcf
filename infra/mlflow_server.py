"""The tracking server and model registry: one MLflow process over SQLite, with artifacts in the S3 bucket.

    mlflow server --backend-store-uri sqlite:///HOME/mlflow/mlflow.db --serve-artifacts \\
        --artifacts-destination s3://reciprocal/mlflow --host 127.0.0.1 --port PORT --workers 1

Clients send artifacts to the server and the server to the bucket, so that clients need the server's address and no
credentials. In production the place of SQLite is PostgreSQL.
"""

from __future__ import annotations

import sys

from infra.ports import LOOPBACK
from infra.records import ServerRecord
from infra.s3_gateway import BUCKET, REGION, Credentials
from infra.server import Launch, http_problem
from pipeline.config.stack import home

NAME = "mlflow"
PORTS = ("http",)


def settings(s3_endpoint: str) -> dict[str, str]:
    """What a running server depends on: it learns the bucket's address at its start and at no other time."""
    return {"s3_endpoint": s3_endpoint}


def launch(ports: dict[str, int], s3_endpoint: str, credentials: Credentials) -> Launch:
    """Return how to start the server. The bucket is used by the first artifact, so it may still be missing now."""
    folder = home().absolute() / "mlflow"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
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


def problem(record: ServerRecord) -> str | None:
    """Return None where the server answers. Its security layer sees the Host header that clients send."""
    return http_problem(f"{record.address}/health", expect="OK")
