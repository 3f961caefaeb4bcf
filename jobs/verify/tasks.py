"""The Ray side of verifying: one task per shard. Not in ``__main__``, whose functions Ray pickles by value."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import ray
import ray.exceptions

from jobs.cluster.connect import connect
from jobs.cluster.errors import explain
from jobs.cluster.occupancy import WaitNotice
from jobs.cluster.submit import run_tasks
from jobs.preprocess.tasks import Resources, remote_options
from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.errors import ReciprocalError, StorageError
from pipeline.storage import Storage
from preprocessing.verify.shard import Decode, ShardCheck, verify_shard_at

_FEW_SHARDS = 8  # for so few, starting Ray's workers takes longer than the work
# Hashing and decoding use one thread. The tar goes to the task's local disk; only faults and keys come back.
_RESOURCES = Resources(num_cpus=1, num_gpus=0)


@ray.remote(max_retries=3, retry_exceptions=[StorageError])  # pyright: ignore[reportArgumentType]
def _verify(storage: Storage, entry: ShardEntry, manifest: Manifest, decode: Decode) -> ShardCheck:
    return verify_shard_at(storage, entry, manifest, decode)


def verify_shards(
    storage: Storage, manifest: Manifest, decode: Decode
) -> Iterator[tuple[ShardEntry, ShardCheck | str]]:
    """Verify all shards; yields each with what was found, or with the reason why it could not be verified.

    A few shards are verified by threads of this process, more than that by tasks on the Ray cluster.
    """
    # Without the list of shards: with thousands of them, megabytes would be sent to every task.
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
    tasks = run_tasks(
        manifest.shards, lambda entry: verify.remote(storage, entry, shared, decode), waiting=WaitNotice()
    )
    with contextlib.closing(tasks):
        for entry, result in tasks:
            yield entry, str(explain(result)) if isinstance(result, ray.exceptions.RayError) else result
