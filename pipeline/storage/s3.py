"""S3 through boto3: adaptive retries, and errors that say what to mend."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from pipeline.config.stack import find_stack, s3_settings
from pipeline.errors import NotFoundError, StorageError, StorageSetupError
from pipeline.storage.base import Storage

_CLIENT_LOCK = threading.Lock()
_PART_BYTES = 64 << 20
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"403", "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"}


def _client() -> Any:
    # A client must not cross a fork, and different settings need different clients: both are in the cache's key.
    settings = s3_settings()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    with _CLIENT_LOCK:
        return _make_client(os.getpid(), endpoint, tuple(sorted(settings.items())))


@functools.lru_cache(maxsize=4)
def _make_client(_pid: int, _endpoint: str, settings: tuple[tuple[str, str], ...]) -> Any:
    config = Config(
        retries={"mode": "adaptive", "max_attempts": 8},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=64,
        # Servers other than Amazon's know no trailing checksums; the project keeps crc32 and sha256 of its own.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if settings or _endpoint else {},
    )
    return boto3.client("s3", config=config, **dict(settings))


class S3Storage(Storage):
    """``s3://BUCKET/PREFIX``; the server and the credentials come from ``pipeline.config.stack.s3_settings``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    def read(self, path: str) -> bytes:
        with self._errors(path):
            return _client().get_object(Bucket=self.bucket, Key=self.prefix + path)["Body"].read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._errors(path):
            answer = _client().get_object(Bucket=self.bucket, Key=self.prefix + path, Range=f"bytes={offset}-{offset + length - 1}")
            return answer["Body"].read()

    def write(self, path: str, data: bytes) -> None:
        with self._errors(path):
            _client().put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data)

    def write_file(self, path: str, source: Path) -> None:
        parts = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
        with self._errors(path):
            _client().upload_file(str(source), self.bucket, self.prefix + path, Config=parts)

    def size(self, path: str) -> int:
        with self._errors(path):
            return _client().head_object(Bucket=self.bucket, Key=self.prefix + path)["ContentLength"]

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"][len(self.prefix) :]

    def delete(self, path: str) -> None:
        # One by one: DeleteObjects needs a Content-MD5 on some servers, which boto3 no longer sends.
        with self._errors(path):
            _client().delete_object(Bucket=self.bucket, Key=self.prefix + path)

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        where = f"{self.uri}/{path}".rstrip("/")
        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "NoSuchBucket":
                raise StorageSetupError(f"bucket {self.bucket!r} does not exist: create it or name another in {self.uri}") from error
            if code in _ABSENT:
                raise NotFoundError(f"{where} does not exist") from error
            if code in _DENIED:
                raise StorageSetupError(f"access to {where} is denied ({code}): check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or role)") from error
            raise StorageError(f"{where}: {error}") from error
        except botocore.exceptions.NoCredentialsError as error:
            raise StorageSetupError(f"no credentials for {self.uri}: start the local stack (python -m infra.local up) or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except (botocore.exceptions.EndpointConnectionError, botocore.exceptions.ConnectTimeoutError) as error:
            stack = find_stack() if s3_settings() else None
            fix = "the local stack is down: python -m infra.local up" if stack else "check AWS_ENDPOINT_URL and the network"
            raise StorageSetupError(f"no S3 server answers for {self.uri} ({error}): {fix}") from error
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:  # type: ignore[attr-defined]
            raise StorageError(f"{where}: {error}") from error
