"""Which source goes into which shard: a pure function of the list of sources and of the files that are there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from pipeline.dataset.sample import sample_key
from pipeline.errors import UserError
from preprocessing.annotations import SPLITS, Annotations, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """One source of a shard, with the key its sample will have."""

    source: Source
    key: str
    num_bytes: int
    """Size of the source's file when the plan was made; -1: it was not there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to build: what goes in, in order."""

    split: str
    name: str  # shard-000000
    inputs: tuple[PlannedSource, ...]
    sources_sha256: str
    versions_sha256: str = ""
    """Of what tells the files from others of the same size (``SourceStore.versions``): nothing that is stored depends
    on it.
    """

    @property
    def path(self) -> str:
        """Path of the shard without its ending, relative to the data set."""
        return f"{self.split}/{self.name}"

    @property
    def sources(self) -> tuple[Source, ...]:
        """All listed sources."""
        return tuple(planned.source for planned in self.inputs)

    @property
    def present(self) -> tuple[PlannedSource, ...]:
        """The inputs whose files exist."""
        return tuple(planned for planned in self.inputs if planned.num_bytes >= 0)

    @property
    def missing(self) -> tuple[PlannedSource, ...]:
        """The inputs whose files do not exist."""
        return tuple(planned for planned in self.inputs if planned.num_bytes < 0)

    @property
    def num_bytes(self) -> int:
        """Size of all files to be read."""
        return sum(planned.num_bytes for planned in self.present)


def plan_shards(
    annotations: Annotations,
    sizes: Mapping[str, int],
    samples_per_shard: int,
    versions: Mapping[str, str] | None = None,
) -> list[ShardPlan]:
    """Distribute the sources of every split over shards of nearly equal length, at most ``samples_per_shard``.

    The order is that of the sources' hashes: a fixed permutation that mixes classes and does not depend on the
    order of the annotations or on a random generator's version. Which shard a source is in depends only on the list,
    not on which files exist: a video that arrives later changes its own shard and no other.

    Args:
        sizes: bytes of every existing file, by ``Source.path``.
        versions: what else tells it from another file of that name, by ``Source.path``.

    Raises:
        UserError: two sources get the same key (the same file listed twice).
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard = {samples_per_shard}")
    keys: dict[str, str] = {}
    by_split: dict[str, list[tuple[bytes, PlannedSource]]] = {split: [] for split in SPLITS}
    for source in annotations.sources:
        key = sample_key(source.name)
        if key in keys:
            raise UserError(f"{source.name!r} and {keys[key]!r} are one sample: list every video (or part of one) once")
        keys[key] = source.name
        planned = PlannedSource(source=source, key=key, num_bytes=sizes.get(source.path, -1))
        digest = hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).digest()
        by_split[source.split].append((digest, planned))
    plans = []
    for split, hashed in by_split.items():
        inputs = [planned for _, planned in sorted(hashed, key=lambda pair: pair[0])]
        num_shards = -(-len(inputs) // samples_per_shard)
        for i in range(num_shards):
            part = tuple(inputs[i * len(inputs) // num_shards : (i + 1) * len(inputs) // num_shards])
            fingerprint = _fingerprint(part, annotations.classes)
            plans.append(
                ShardPlan(
                    split=split,
                    name=f"shard-{i:06d}",
                    inputs=part,
                    sources_sha256=fingerprint,
                    versions_sha256=_sha256([(versions or {}).get(planned.source.path, "") for planned in part]),
                )
            )
    return plans


def _fingerprint(inputs: Sequence[PlannedSource], classes: Sequence[str]) -> str:
    """sha256 of everything that identifies a shard's inputs: names, labels, start and end times, and file sizes.

    The size lets a re-run notice a file that was missing or cut off when it was last read. A file's location is left
    out: unpacking an archive changes no video.
    """
    rows = []
    for planned in inputs:
        s = planned.source
        kind = ["picture"] if s.picture else []  # records of videos keep their fingerprints
        rows.append([s.name, s.label, classes[s.label], s.start_s, s.end_s, planned.num_bytes, *kind])
    return _sha256(rows)


def _sha256(rows: list) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
