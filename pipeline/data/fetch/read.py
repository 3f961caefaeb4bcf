"""The bytes of one sample, checked: from the cache on disk, else by a ranged GET.

Checksums are compared on arrival because decoders answer damage badly: some crash, some return grey pictures, and
DALI gives up its whole pipeline.
"""

from __future__ import annotations

import dataclasses
import logging
import threading

from pipeline.data.fetch.cache import DiskCache
from pipeline.data.fetch.damage import Damaged
from pipeline.dataset.shards import SampleRecord, split_members
from pipeline.errors import StorageError
from pipeline.storage import Storage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """A sample to read: its record (the members that are wanted) and its tar's path."""

    tar: str
    record: SampleRecord


@dataclasses.dataclass
class FetchMetrics:
    """Sums since the loader was made, and the depth as it is now."""

    requests: int = 0
    """Ranged GETs that brought an answer; their repetitions count below."""
    bytes: int = 0
    """Of those GETs."""
    retries: int = 0
    """Tries that failed and were repeated by the storage."""
    fetch_wait_s: float = 0.0
    """Time that decoding waited for bytes."""
    fetch_depth: int = 0
    """GETs that may be in flight now."""
    fetch_depth_max: int = 0
    """Most GETs that were in flight at once."""
    fetch_held_max: int = 0
    """Most bytes that were in flight or ready at once."""
    cache_hits: int = 0
    cache_misses: int = 0
    cache_bytes: int = 0
    """Read from the cache on local disk."""


def read_sample(
    storage: Storage, request: Request, metrics: FetchMetrics, lock: threading.Lock, cache: DiskCache | None = None
) -> dict[str, bytes] | Damaged:
    """Members of one sample by extension, checked: from the cache, else by a GET; a second GET where the first differs,
    then ``Damaged``.

    A cached copy that differs is removed and counts as a miss. Only checked bytes are put into the cache.

    Raises:
        StorageError: the storage failed; the message names shard and key.
    """
    record, detail = request.record, ""
    if cache is not None:
        data = cache.get(request.tar, record.offset, record.size)
        members = _intact(record, data, cache, request.tar) if data is not None else None
        with lock:
            metrics.cache_hits += members is not None
            metrics.cache_misses += members is None
            metrics.cache_bytes += record.size if members is not None else 0
        if members is not None:
            return members
    for _ in range(2):
        try:
            data = storage.read_range(request.tar, record.offset, record.size)
        except (StorageError, OSError) as error:
            kind = type(error) if isinstance(error, StorageError) else StorageError
            raise kind(f"sample {record.key} in {storage.uri}/{request.tar}: {error}") from error
        with lock:
            metrics.requests += 1
            metrics.bytes += len(data)
        try:
            members = split_members(record, data)
        except ValueError as error:
            detail = str(error)
            continue
        if cache is not None:
            cache.put(request.tar, record.offset, record.size, data)
        return members
    return Damaged(record.key, request.tar, detail)


def _intact(record: SampleRecord, data: bytes, cache: DiskCache, tar: str) -> dict[str, bytes] | None:
    try:
        return split_members(record, data)
    except ValueError as error:
        log.warning("a cached copy is damaged, removed, and fetched again: %s", error)
        cache.drop(tar, record.offset, record.size)
        return None
