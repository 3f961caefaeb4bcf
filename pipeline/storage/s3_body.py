"""The bytes of S3 requests and answers, moved in parts, each within the request's deadline."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from pipeline.storage.s3_retry import CutError, Deadline

_PART_BYTES = 1 << 20


class UploadBody(io.RawIOBase):
    """What is sent, in small parts, each within the socket's timeout and the request's deadline; one ``bytes`` object
    would be limited by neither.

    Reads with ``pread``-like calls, so that the parts of one file can be sent at the same time, and none is held in
    memory.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, deadline: Deadline) -> None:
        super().__init__()
        self._read_at, self._size, self._deadline, self._position = read_at, size, deadline, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        self._deadline.check()
        left = max(0, self._size - self._position)
        data = self._read_at(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data


def check_size(found: int, sent: int) -> None:
    if found != sent:
        raise CutError(f"stored with {found} bytes instead of {sent}")


def whole_body(answer: dict[str, Any], deadline: Deadline) -> bytes:
    """All bytes of a GET's body.

    Raises:
        CutError: fewer than announced.
        TimeoutError: the deadline came first.
    """
    length, body = int(answer["ContentLength"]), answer["Body"]
    deadline.allow_for(length)
    # The stream below botocore's: its read1 returns after one recv, while read(n) waits for n bytes however slowly they
    # come.
    stream, parts, arrived = body._raw_stream, [], 0
    try:
        while arrived < length:
            deadline.check()
            part = stream.read1(min(_PART_BYTES, length - arrived))
            if not part:
                raise CutError(f"the answer ended after {arrived} of {length} bytes")
            parts.append(part)
            arrived += len(part)
        stream.drain_conn()  # reads the end, which gives the connection back
        return b"".join(parts)
    finally:
        stream.close()
