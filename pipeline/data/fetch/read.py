"""The bytes of one sample, checked: from the cache on disk, else by a ranged GET.

Checksums are compared on arrival because decoders answer damage badly: some crash, some return grey frames, and
DALI's whole pipeline is lost.
"""

from __future__ import annotations

import dataclasses
import logging
import threading

from pipeline.data.fetch.cache import DiskCache
from pipeline.data.fetch.damage import Damaged
from pipeline.dataset.shards import SampleRange, split_members
from pipeline.errors import StorageError
from pipeline.storage import Storage

log = logging.getLogger(__name__)


@dataclasses.dataclass
class FetchMetrics:
    """Sums since the loader was made, and the depth as it is now."""

    requests: int = 0
    """Ranged GETs that were answered; retries count below."""
    bytes: int = 0
    """Of those GETs."""
    retries: int = 0
    """Tries that failed and were retried by the storage."""
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
    storage: Storage, sample: SampleRange, metrics: FetchMetrics, lock: threading.Lock, cache: DiskCache | None = None
) -> dict[str, bytes] | Damaged:
    """Members of one sample by extension, checked: from the cache, else by a GET; a second GET where the first differs,
    then ``Damaged``.

    A cached copy that differs is removed and counts as a miss. Only checked bytes are put into the cache.

    Raises:
        StorageError: the storage failed; the message names shard and key.
    """
    detail = ""
    if cache is not None:
        data = cache.get(sample.tar, sample.offset, sample.size)
        members = _intact(sample, data, cache) if data is not None else None
        with lock:
            metrics.cache_hits += members is not None
            metrics.cache_misses += members is None
            metrics.cache_bytes += sample.size if members is not None else 0
        if members is not None:
            return members
    for _ in range(2):
        try:
            data = storage.read_range(sample.tar, sample.offset, sample.size)
        except (StorageError, OSError) as error:
            kind = type(error) if isinstance(error, StorageError) else StorageError
            raise kind(f"sample {sample.key} in {storage.uri}/{sample.tar}: {error}") from error
        with lock:
            metrics.requests += 1
            metrics.bytes += len(data)
        try:
            members = split_members(sample, data)
        except ValueError as error:
            detail = str(error)
            continue
        if cache is not None:
            cache.put(sample.tar, sample.offset, sample.size, data)
        return members
    return Damaged(sample.key, sample.tar, detail)


def _intact(sample: SampleRange, data: bytes, cache: DiskCache) -> dict[str, bytes] | None:
    try:
        return split_members(sample, data)
    except ValueError as error:
        log.warning("a cached copy is damaged, removed, and fetched again: %s", error)
        cache.drop(sample.tar, sample.offset, sample.size)
        return None
