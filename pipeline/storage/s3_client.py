"""The boto3 clients of ``S3Storage``."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import boto3
from botocore.config import Config

from pipeline.config.stack import s3_settings

_CLIENT_LOCK = threading.Lock()
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


def s3_client(read_timeout_s: float) -> Any:
    """A boto3 client for this process, these credentials and this endpoint; made once for each of them."""
    # A client must not cross a fork, and different settings need different clients: both are in the cache's key.
    who = (os.getpid(), *(os.environ.get(name) for name in _CREDENTIALS))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    with _CLIENT_LOCK:
        return _make_client(who, endpoint, tuple(sorted(s3_settings().items())), read_timeout_s)


@functools.lru_cache(maxsize=8)
def _make_client(
    who: tuple[object, ...], _endpoint: str, settings: tuple[tuple[str, str], ...], read_timeout_s: float
) -> Any:
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},  # s3_retry does that
        connect_timeout=min(5.0, read_timeout_s),
        read_timeout=read_timeout_s,
        # botocore builds its own for every request, from 16 parts, twice: a fifth of what a small GET costs in Python.
        user_agent="reciprocal",
        max_pool_connections=64,
        tcp_keepalive=True,
        # Servers other than Amazon's know no trailing checksums; the project keeps crc32 and sha256 of its own.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if settings or _endpoint else {},
    )
    return _session(who).client("s3", config=config, **dict(settings))


@functools.lru_cache(maxsize=2)
def _session(_who: tuple[object, ...]) -> Any:
    return boto3.Session()  # slow to make; boto3's default one would keep the first credentials it found
