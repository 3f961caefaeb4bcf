"""S3 through boto3: requests that survive a restart of the server, checked uploads, and errors that say what to fix.

Every request is retried within a deadline (``pipeline.storage.s3_retry``), the reading of its body included, so that a
server that is restarted or overloaded costs time but loses no work. Only ``probe``, which runs before any work, gives
up at once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.exceptions

from pipeline.config.stack import find_stack, s3_settings
from pipeline.errors import StorageError, StorageSetupError
from pipeline.storage.base import Storage
from pipeline.storage.s3_body import UploadBody, check_size, whole_body
from pipeline.storage.s3_client import s3_client
from pipeline.storage.s3_errors import NO_CREDENTIALS, code_of, explain_refusal
from pipeline.storage.s3_retry import Deadline, deadline_s, with_retries

T = TypeVar("T")
_PART_BYTES = 16 << 20  # what a cut connection costs; S3 takes 10,000 parts
_MAX_PARTS = 10_000
_PART_THREADS = 4
_PROBE_S = 10.0
_READ_TIMEOUT_S, _TIMED_READ_TIMEOUT_S, _TIMED_TRIES = 60.0, 30.0, 6  # timed: within a deadline of the caller's
_UNREACHABLE = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ProxyConnectionError,
)


class S3Storage(Storage):
    """``s3://BUCKET/PREFIX``; the server and the credentials come from ``pipeline.config.stack.s3_settings``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._probing = False
        self._within_s = 0.0
        self._on_retry: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    def probe(self, *, write: bool) -> None:
        """Fail early, see ``Storage.probe``: a server that is not there is not waited for, one that is busy for
        some seconds.
        """
        quick = copy.copy(self)
        quick._probing = True
        super(S3Storage, quick).probe(write=write)

    def within(self, deadline_s: float, on_retry: Callable[[], None] | None = None) -> S3Storage:
        """See ``Storage.within``. The deadline replaces RECIPROCAL_S3_DEADLINE_S; bodies get no more time for
        their length. A try that receives nothing for a sixth of it, at most 30 s, is abandoned and retried.
        """
        timed = copy.copy(self)
        timed._within_s, timed._on_retry = deadline_s, on_retry
        return timed

    def read(self, path: str, most: int | None = None) -> bytes:
        return self._read(path, {}, most)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        return self._read(path, {"Range": f"bytes={offset}-{offset + length - 1}"}, length)

    def _read(self, path: str, arguments: dict[str, str], most: int | None = None) -> bytes:
        def attempt(client: Any, deadline: Deadline) -> bytes:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=self.prefix + path, **arguments)
            except botocore.exceptions.ClientError as error:
                if code_of(error) in ("InvalidRange", "416"):  # a range past the end is empty, as in a file
                    return b""
                raise
            if most is not None and answer["ContentLength"] > most:  # the whole object, gigabytes of it perhaps
                answer["Body"].close()
                if not arguments:
                    self._check_size(path, answer["ContentLength"], most)
                raise StorageError(
                    f"{self.uri}/{path}: the server ignores Range: it sends {answer['ContentLength']} bytes where"
                    f" {most} were asked for"
                )
            return whole_body(answer, deadline)

        return self._request(path, attempt)

    def write(self, path: str, data: bytes) -> None:
        view = memoryview(data)
        self._put(path, lambda offset, length: bytes(view[offset : offset + length]), len(data))

    def write_file(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            size, descriptor = os.fstat(file.fileno()).st_size, file.fileno()
            if size <= _PART_BYTES:
                self._put(path, lambda offset, length: os.pread(descriptor, length, offset), size)
            else:
                self._put_parts(path, lambda offset, length: os.pread(descriptor, length, offset), size)

    def _put(self, path: str, read_at: Callable[[int, int], bytes], size: int) -> None:
        key = self.prefix + path

        def attempt(client: Any, deadline: Deadline) -> None:
            client.put_object(Bucket=self.bucket, Key=key, Body=UploadBody(read_at, size, deadline), ContentLength=size)
            # By its size: an ETag is an MD5 on some servers only, and not for every object.
            check_size(client.head_object(Bucket=self.bucket, Key=key)["ContentLength"], size)

        self._request(path, attempt, num_bytes=size)

    def _put_parts(self, path: str, read_at: Callable[[int, int], bytes], size: int) -> None:
        """Upload in parts, each retried by itself. A killed process leaves parts behind, which no listing shows; a
        bucket's lifecycle rule (AbortIncompleteMultipartUpload) removes them.
        """
        key = self.prefix + path
        names = {"Bucket": self.bucket, "Key": key}
        part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        upload = {
            **names,
            "UploadId": self._request(path, lambda client, _: client.create_multipart_upload(**names))["UploadId"],
        }

        def send(number: int) -> dict[str, Any]:
            offset = (number - 1) * part_bytes
            length = min(part_bytes, size - offset)

            def attempt(client: Any, deadline: Deadline) -> dict[str, Any]:
                body = UploadBody(lambda start, count: read_at(offset + start, count), length, deadline)
                answer = client.upload_part(**upload, PartNumber=number, Body=body, ContentLength=length)
                return {"PartNumber": number, "ETag": answer["ETag"]}

            return self._request(path, attempt, num_bytes=length)

        def complete(client: Any, deadline: Deadline) -> None:
            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except botocore.exceptions.ClientError as error:
                # Done by an earlier try whose answer was lost; its size says so.
                if code_of(error) != "NoSuchUpload":
                    raise
            check_size(client.head_object(**names)["ContentLength"], size)

        try:
            with ThreadPoolExecutor(_PART_THREADS) as pool:
                parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
            self._request(path, complete)
        except BaseException:
            with contextlib.suppress(StorageError):
                self._request(path, lambda client, _: client.abort_multipart_upload(**upload), allowed_s=_PROBE_S)
            raise

    def size(self, path: str) -> int:
        return self._request(
            path, lambda client, _: client.head_object(Bucket=self.bucket, Key=self.prefix + path)["ContentLength"]
        )

    def list(self, prefix: str = "") -> Iterator[str]:
        for path, _, _ in self._objects(prefix):
            yield path

    def list_sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for path, size, _ in self._objects(prefix):
            yield path, size

    def list_versions(self, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        return self._objects(prefix)

    def version(self, path: str) -> str:
        return self._request(
            path, lambda client, _: client.head_object(Bucket=self.bucket, Key=self.prefix + path)["ETag"]
        )

    def _objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """Paths, sizes and ETags, page by page; each page is a request of its own."""
        more: dict[str, str] = {}
        while True:
            page = self._request(prefix, functools.partial(self._page, prefix, more))
            for item in page.get("Contents", ()):
                yield item["Key"][len(self.prefix) :], item["Size"], item.get("ETag", "")
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, more: dict[str, str], client: Any, deadline: Deadline) -> dict[str, Any]:
        return client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, **more)

    def delete(self, path: str) -> None:
        # One by one: DeleteObjects needs a Content-MD5 on some servers, which boto3 no longer sends.
        self._request(path, lambda client, _: client.delete_object(Bucket=self.bucket, Key=self.prefix + path))

    def _request(
        self, path: str, attempt: Callable[[Any, Deadline], T], *, num_bytes: int = 0, allowed_s: float = 0.0
    ) -> T:
        """``attempt(client, deadline)``, retried until the deadline; errors become the project's own."""
        where = f"{self.uri}/{path}".rstrip("/")
        if self._within_s:
            read_timeout_s = min(_TIMED_READ_TIMEOUT_S, self._within_s / _TIMED_TRIES)
            deadline = Deadline(
                self._within_s - read_timeout_s, fixed=True
            )  # a try that begins at its very end may last for the timeout
        else:
            read_timeout_s = _PROBE_S if self._probing else _READ_TIMEOUT_S
            deadline = Deadline(allowed_s or min(deadline_s(), _PROBE_S if self._probing else float("inf")))
        deadline.allow_for(num_bytes)
        try:
            return with_retries(
                where,
                lambda deadline: attempt(s3_client(read_timeout_s), deadline),
                deadline,
                final=lambda error: self._probing and isinstance(error, _UNREACHABLE),
                on_retry=self._on_retry,
            )
        except botocore.exceptions.ClientError as error:
            raise explain_refusal(error, where, self.bucket, self.uri) from error
        except NO_CREDENTIALS as error:
            given = "no credentials" if isinstance(error, botocore.exceptions.NoCredentialsError) else str(error)
            raise StorageSetupError(
                f"{given} for {self.uri}: start the local stack (python -m infra.local up) or set"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except _UNREACHABLE as error:
            stack = find_stack() if s3_settings() else None
            fix = (
                "the local stack is down: python -m infra.local up"
                if stack
                else "check AWS_ENDPOINT_URL and the network"
            )
            raise StorageSetupError(f"no S3 server answers for {self.uri} ({error}): {fix}") from error
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:  # type: ignore[attr-defined]
            raise StorageError(f"{where}: {error}") from error
