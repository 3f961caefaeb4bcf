"""The lease on --out: two commands that would write different bytes never write there at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.config.base import as_dict
from pipeline.dataset.manifest import MANIFEST, Manifest
from pipeline.errors import NotFoundError, ReciprocalError, UserError
from pipeline.storage import Storage
from pipeline.storage.lease import Lease, hold
from pipeline.storage.lease_holder import Holder
from preprocessing.shard.build import ShardSpec
from preprocessing.shard.plan import ShardPlan
from preprocessing.shard.provenance import builder_version

_THREADS = 16  # small requests in flight


def lease_target(
    dataset: str, spec: ShardSpec, plans: Sequence[ShardPlan], storage: Storage
) -> contextlib.AbstractContextManager[Lease]:
    """Be the writer of a target, beside other commands that will write the same bytes.

    Raises:
        UserError: a running command writes something else there; says who, and what differs.
    """
    about = {
        "parameters": {**as_dict(spec.stored), "flow": spec.flow},
        "dataset": dataset,
        "classes": len(spec.classes),
        "videos": sum(len(plan.inputs) for plan in plans),
        "shards": len(plans),
        "code": builder_version(),
    }
    about = json.loads(json.dumps(about))
    # The number of classes is for messages; their names are in the fingerprints of the shards.
    everything = [about, list(spec.classes), [[plan.path, plan.sources_sha256, plan.versions_sha256] for plan in plans]]
    plan = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    def refuse(holder: Holder) -> UserError:
        return UserError(
            f"{storage.uri} is being written by {holder}, {_what_differs(holder.about, about)}: wait until that command"
            " has ended, use another --out, or end it"
        )

    return hold(storage, plan=plan, about=about, refuse=refuse)


def changed(had: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What differs between two sets of parameters: ``crf 20 -> 30, fps 0.0 -> 10.0``."""
    return ", ".join(
        f"{key} {had.get(key)!r} -> {asked.get(key)!r}"
        for key in sorted({*had, *asked})
        if had.get(key) != asked.get(key)
    )


def _what_differs(had: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    before, now = had.get("parameters"), asked["parameters"]
    if isinstance(before, dict) and before != now:
        return f"with other parameters ({changed(before, now)})"
    names = [key for key in ("dataset", "classes", "videos", "shards", "code") if had.get(key) != asked[key]]
    if names:
        return f"with another plan ({changed({k: had.get(k) for k in names}, {k: asked[k] for k in names})})"
    return "with other videos or labels"


def check_stored(manifest: Manifest, storage: Storage) -> None:
    """Last check before a manifest is written: what it lists is what is stored, and no other manifest is.

    A lease keeps commands apart; this finds what a task that outlived its command has written.

    Raises:
        ReciprocalError: shards or the manifest were changed meanwhile.
    """
    with contextlib.suppress(NotFoundError):
        if storage.read(MANIFEST) != manifest.to_json():
            raise ReciprocalError(
                f"{storage.uri}: another command has finished another data set here meanwhile: use another --out, or"
                " --overwrite to replace it"
            )

    def is_stored(number: int) -> bool:
        entry = manifest.shards[number]
        try:
            record = hashlib.sha256(storage.read(f"{entry.path}.json")).hexdigest()
            return record == entry.record_sha256 and (
                not entry.num_samples or storage.size(f"{entry.path}.tar") == entry.size
            )
        except NotFoundError:
            return False

    with ThreadPoolExecutor(_THREADS) as pool:
        whole = list(pool.map(is_stored, range(len(manifest.shards))))
    if others := [entry.path for entry, sound in zip(manifest.shards, whole, strict=True) if not sound]:
        raise ReciprocalError(
            f"{storage.uri}: {len(others)} of {len(whole)} shards (first: {others[0]}) were changed by something else"
            " while this command ran: run it again"
        )
