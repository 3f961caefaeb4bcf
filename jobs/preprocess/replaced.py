"""Sources that were replaced by others of the same size, between two runs of the same command.

Records and manifest say nothing about the times of files or the ETags of objects: the same videos, copied elsewhere,
must give the same bytes. What tells two files of one name and size apart is noted beside them, in ``.sources.json``,
and compared while the source stays where it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence

from pipeline.common.words import counted
from pipeline.errors import NotFoundError
from pipeline.storage import Storage
from preprocessing.shard.plan import ShardPlan
from preprocessing.sources import SourceStore
from preprocessing.sources.data_sets import NOTES

log = logging.getLogger(__name__)


def replaced_shards(
    plans: Sequence[ShardPlan], store: SourceStore, storage: Storage, *, finished: bool
) -> frozenset[str]:
    """Paths of the shards to build again, because they were built of files with other times or ETags.

    Args:
        finished: whether there is a finished data set. It stays as it is: a time that changed need not mean other
            bytes. That it may be out of date is said in the log.
    """
    noted = _read(store, storage)
    # Where names or sizes differ as well, the record's own fingerprint says so.
    found = [
        plan.path
        for plan in plans
        if noted.get(plan.path, [])[:1] == [plan.sources_sha256] and noted[plan.path] != _note(plan)
    ]
    if found:
        log.warning(
            "%s: the files of %s (first: %s) have other times or ETags than when it was built: %s",
            storage.uri,
            counted(len(found), "shard"),
            found[0],
            "if their videos are others, --overwrite builds it again" if finished else "it is built again",
        )
    return frozenset() if finished else frozenset(found)


def note_sources(plans: Sequence[ShardPlan], kept: Collection[str], store: SourceStore, storage: Storage) -> None:
    """Note of which files each shard is made, before it is built.

    Args:
        kept: shards that stay as an earlier run built them; what it noted stays as well.
    """
    before = _read(store, storage)
    noted = {plan.path: _note(plan) for plan in plans}
    noted |= {path: before[path] for path in kept if path in before}
    if noted != before:
        storage.write(NOTES, json.dumps({"source": store.uri, "shards": noted}, indent=1, sort_keys=True).encode())


def _note(plan: ShardPlan) -> list[str]:
    return [plan.sources_sha256, plan.versions_sha256]


def _read(store: SourceStore, storage: Storage) -> dict[str, list[str]]:
    """What was noted about this source; empty where nothing was, or what is there cannot be read."""
    try:
        notes = json.loads(storage.read(NOTES))
        if notes["source"] == store.uri:
            return {path: [str(part) for part in note] for path, note in notes["shards"].items()}
    except (NotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return {}
