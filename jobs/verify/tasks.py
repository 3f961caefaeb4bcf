"""The Ray side of verifying: one task a shard. A module of its own: Ray pickles functions of ``__main__`` by value."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import ray
import ray.exceptions

from jobs.cluster.connect import connect
from jobs.preprocess.tasks import Resources, remote_options
from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.errors import ReciprocalError, StorageError
from pipeline.storage import Storage
from preprocessing.verify.shard import Decode, ShardCheck, verify_shard_at

_FEW_SHARDS = 8  # up to here starting Ray's workers takes longer than the work
# Hashing and decoding run one thread. The tar goes to the task's own disk; only faults and keys come back.
_RESOURCES = Resources(num_cpus=1, num_gpus=0)
_IN_FLIGHT = 256  # tasks handed to Ray at a time: enough for some hundred cores, and results do not pile up


@ray.remote(max_retries=3, retry_exceptions=[StorageError])  # pyright: ignore[reportArgumentType]
def _verify(storage: Storage, entry: ShardEntry, manifest: Manifest, decode: Decode) -> ShardCheck:
    return verify_shard_at(storage, entry, manifest, decode)


def verify_shards(
    storage: Storage, manifest: Manifest, decode: Decode
) -> Iterator[tuple[ShardEntry, ShardCheck | str]]:
    """Verify all shards; yields each with what was found, or with the reason why it could not be verified.

    A few shards are verified by threads of this process, more of them by tasks on the Ray cluster.
    """
    # Without the list of shards: with thousands of them every task would carry megabytes.
    short = dataclasses.replace(manifest, shards=())
    if len(manifest.shards) <= _FEW_SHARDS:
        yield from _by_threads(storage, manifest, short, decode)
    else:
        yield from _by_tasks(storage, manifest, short, decode)


def _by_threads(
    storage: Storage, manifest: Manifest, short: Manifest, decode: Decode
) -> Iterator[tuple[ShardEntry, ShardCheck | str]]:
    def attempt(entry: ShardEntry) -> ShardCheck | str:
        try:
            return verify_shard_at(storage, entry, short, decode)
        except (ReciprocalError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor() as pool:
        yield from zip(manifest.shards, pool.map(attempt, manifest.shards), strict=True)


def _by_tasks(
    storage: Storage, manifest: Manifest, short: Manifest, decode: Decode
) -> Iterator[tuple[ShardEntry, ShardCheck | str]]:
    connect()
    verify = _verify.options(**remote_options(_RESOURCES))
    shared = ray.put(short)
    waiting = iter(manifest.shards)
    running = {verify.remote(storage, entry, shared, decode): entry for entry in itertools.islice(waiting, _IN_FLIGHT)}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        entry = running.pop(done)
        try:
            result: ShardCheck | str = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            result = (
                f"{type(error.cause).__name__}: {error.cause}"
                if isinstance(error.cause, ReciprocalError | OSError)
                else str(error)
            )
        except ray.exceptions.RayError as error:
            result = f"its worker was lost: {str(error).splitlines()[0]}"
        running.update(
            {verify.remote(storage, following, shared, decode): following for following in itertools.islice(waiting, 1)}
        )
        yield entry, result
