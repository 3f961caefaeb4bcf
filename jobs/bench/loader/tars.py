"""Tars as webdataset opens them, those in a bucket through our storage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.storage import LocalStorage, Storage, open_storage

_PART_BYTES = 8 << 20  # of a tar, in one ranged GET


def shard_urls(storage: Storage, tars: Sequence[str]) -> list[str]:
    """What webdataset opens: paths of files as they are, objects through ``open_object``."""
    return [str(storage.root / tar) if isinstance(storage, LocalStorage) else f"{storage.uri}/{tar}" for tar in tars]


class _Ahead(io.RawIOBase):
    """An object's bytes, read in parts: the next one is requested while the last is read."""

    _pool = ThreadPoolExecutor(1, thread_name_prefix="baseline-ahead")

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name, self._size = storage, name, storage.size(name)
        self._part, self._taken, self._requested = b"", 0, 0
        self._next: Future[bytes] | None = self._request()

    def _request(self) -> Future[bytes] | None:
        offset, self._requested = self._requested, min(self._requested + _PART_BYTES, self._size)
        return (
            self._pool.submit(self._storage.read_range, self._name, offset, self._requested - offset)
            if offset < self._requested
            else None
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._taken == len(self._part) and self._next is not None:
            self._part, self._taken = self._next.result(), 0
            self._next = self._request()
        part = self._part[self._taken : self._taken + len(buffer)]
        buffer[: len(part)] = part
        self._taken += len(part)
        return len(part)


def open_object(url: str, *args: object, **options: object) -> io.BufferedReader:
    """webdataset's opener for ``s3://``; mode and buffer size, which it is given too, are what they are."""
    del args, options
    folder, _, name = url.rpartition("/")
    return io.BufferedReader(_Ahead(open_storage(folder), name), 1 << 20)
