"""Which source goes into which shard: a pure function of the list of sources."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.sample import sample_key
from preprocessing.annotations import SPLITS, Annotations, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to build: what goes in, in order."""

    split: str
    name: str  # shard-000000
    sources: tuple[Source, ...]
    sources_sha256: str

    @property
    def path(self) -> str:
        """Path of the shard without its ending, relative to the data set."""
        return f"{self.split}/{self.name}"


def plan_shards(annotations: Annotations, root: Path, samples_per_shard: int) -> list[ShardPlan]:
    """Deal the sources of every split out to shards of nearly equal length, at most ``samples_per_shard``.

    The order is that of the sources' hashes: a fixed permutation that mixes classes and does not depend on the
    order of the annotations or on a random generator's version.

    Raises:
        UserError: two sources get the same key (the same file listed twice).
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard = {samples_per_shard}")
    keys: dict[str, str] = {}
    for source in annotations.sources:
        key = sample_key(source.name)
        if key in keys:
            raise UserError(f"{source.name!r} and {keys[key]!r} are one sample: list every video (or part of one) once")
        keys[key] = source.name
    plans = []
    for split in SPLITS:
        sources = sorted((s for s in annotations.sources if s.split == split), key=lambda s: hashlib.sha256(s.name.encode("utf-8", "surrogateescape")).digest())
        num_shards = -(-len(sources) // samples_per_shard)
        for i in range(num_shards):
            part = tuple(sources[i * len(sources) // num_shards : (i + 1) * len(sources) // num_shards])
            plans.append(ShardPlan(split=split, name=f"shard-{i:06d}", sources=part, sources_sha256=_fingerprint(part, annotations.classes, root)))
    return plans


def _fingerprint(sources: Sequence[Source], classes: Sequence[str], root: Path) -> str:
    """sha256 of all that a shard's inputs are: names, labels, parts, and the files' sizes.

    The size makes a re-run notice a file that was missing or cut off when it was read before.
    """
    rows = []
    for s in sources:
        try:
            size = os.stat(root / s.path).st_size
        except OSError:
            size = -1
        rows.append([s.path, s.label, classes[s.label], s.start_s, s.end_s, size])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
