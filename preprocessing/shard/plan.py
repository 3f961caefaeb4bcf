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
class ShardPlan:
    """One shard to build: what goes in, in order."""

    split: str
    name: str  # shard-000000
    sources: tuple[Source, ...]
    sizes: tuple[int, ...]
    """Bytes of each source's file when the plan was made; -1: it was not there."""
    sources_sha256: str

    @property
    def path(self) -> str:
        """Path of the shard without its ending, relative to the data set."""
        return f"{self.split}/{self.name}"

    @property
    def present(self) -> tuple[Source, ...]:
        """The sources whose files are there."""
        return tuple(s for s, size in zip(self.sources, self.sizes, strict=True) if size >= 0)

    @property
    def missing(self) -> tuple[Source, ...]:
        """The listed sources whose files are not there."""
        return tuple(s for s, size in zip(self.sources, self.sizes, strict=True) if size < 0)


def plan_shards(annotations: Annotations, sizes: Mapping[str, int], samples_per_shard: int) -> list[ShardPlan]:
    """Deal the sources of every split out to shards of nearly equal length, at most ``samples_per_shard``.

    The order is that of the sources' hashes: a fixed permutation that mixes classes and does not depend on the
    order of the annotations or on a random generator's version. Which shard a source is in depends on the list alone,
    not on which files are there: a video that arrives later changes its own shard and no other.

    Args:
        sizes: bytes of every file that is there, by ``Source.path``.

    Raises:
        UserError: two sources get the same key (the same file listed twice).
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard = {samples_per_shard}")
    keys: dict[str, str] = {}
    by_split: dict[str, list[tuple[bytes, Source]]] = {split: [] for split in SPLITS}
    for source in annotations.sources:
        key = sample_key(source.name)
        if key in keys:
            raise UserError(f"{source.name!r} and {keys[key]!r} are one sample: list every video (or part of one) once")
        keys[key] = source.name
        by_split[source.split].append((hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).digest(), source))
    plans = []
    for split, hashed in by_split.items():
        sources = [source for _, source in sorted(hashed, key=lambda pair: pair[0])]
        num_shards = -(-len(sources) // samples_per_shard)
        for i in range(num_shards):
            part = tuple(sources[i * len(sources) // num_shards : (i + 1) * len(sources) // num_shards])
            found = tuple(sizes.get(s.path, -1) for s in part)
            plans.append(
                ShardPlan(
                    split=split,
                    name=f"shard-{i:06d}",
                    sources=part,
                    sizes=found,
                    sources_sha256=_fingerprint(part, found, annotations.classes),
                )
            )
    return plans


def _fingerprint(sources: Sequence[Source], sizes: Sequence[int], classes: Sequence[str]) -> str:
    """sha256 of all that a shard's inputs are: names, labels, parts, and the files' sizes.

    The size makes a re-run notice a file that was missing or cut off when it was read before. Where a file lies is left
    out: unpacking an archive changes no video.
    """
    rows = [
        [s.name, s.label, classes[s.label], s.start_s, s.end_s, size] for s, size in zip(sources, sizes, strict=True)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
