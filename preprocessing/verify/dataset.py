"""Checks of a data set as a whole: its manifest, objects it does not list, and what shards must not share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pipeline.dataset.manifest import MANIFEST, SPLITS, Manifest, manifest_bytes, manifest_problems
from pipeline.errors import ManifestError
from pipeline.storage import Storage
from preprocessing.verify.faults import Fault
from preprocessing.verify.shard import ShardCheck

_PREFIXES = tuple(f"{split}/" for split in SPLITS)


def open_manifest(storage: Storage) -> tuple[Manifest | None, list[Fault]]:
    """The manifest, or None if it cannot be parsed, and its own faults.

    Raises:
        ManifestError: there is none, so there is no finished data set.
        StorageError: the storage failed.
    """
    data = manifest_bytes(storage)
    try:
        manifest = Manifest.from_json(data, f"{storage.uri}/{MANIFEST}")
    except ManifestError as error:
        return None, [Fault(kind="manifest", detail=str(error))]
    details = []
    if hashlib.sha256(data).hexdigest() != manifest.digest:
        details.append(
            f"not in canonical form, so it was edited: expected sha256 {manifest.digest}, found"
            f" {hashlib.sha256(data).hexdigest()}"
        )
    details += manifest_problems(manifest)
    return manifest, [Fault(kind="manifest", detail=detail) for detail in details]


def find_strays(storage: Storage, manifest: Manifest) -> list[Fault]:
    """Objects below train/, val/ and test/ that the manifest does not list, in lexical order."""
    listed = {f"{entry.path}.json" for entry in manifest.shards}
    listed |= {f"{entry.path}.{ending}" for entry in manifest.shards if entry.size for ending in ("tar", "idx")}
    found = (path for prefix in _PREFIXES for path in storage.list(prefix))
    return [
        Fault(shard=path, kind="stray", detail="the manifest does not list it; readers never see it: delete it")
        for path in found
        if path not in listed
    ]


class Totals:
    """Sums over shards, and faults that only a comparison of shards shows. Shards may come in any order.

    Keys and sources are kept as 64-bit hashes: about 100 bytes each, 200 MB for a million samples.
    """

    def __init__(self) -> None:
        self.num_shards = self.num_bytes = self.num_samples = self.num_decoded = self.num_frames = self.num_inputs = 0
        self._keys: dict[int, str] = {}
        self._sources: dict[int, str] = {}
        self._flows: dict[str, list[str]] = {}

    def add(self, check: ShardCheck) -> list[Fault]:
        """Count a shard; returns a fault for each key and source that another shard (or this one) has already."""
        self.num_shards += 1
        self.num_bytes += check.num_bytes
        self.num_samples += len(check.keys)
        self.num_inputs += len(check.sources)
        self.num_decoded += check.num_decoded
        self.num_frames += check.num_frames
        if check.flow:
            self._flows.setdefault(check.flow, []).append(check.path)
        faults = [
            Fault(shard=check.path, sample=key, kind="key", detail=f"is already in {first}")
            for key, first in _repeated(check.keys, check.path, self._keys)
        ]
        again = _repeated(check.sources, check.path, self._sources)
        return faults + [
            Fault(shard=check.path, kind="source", detail=f"{source!r} is already in {first}")
            for source, first in again
        ]

    def finish(self) -> list[Fault]:
        """Faults that show only when all shards are counted: flow of several engines, in a data set whose manifest
        does not name the engine.
        """
        if len(self._flows) < 2:
            return []
        usual = max(self._flows, key=lambda flow: (len(self._flows[flow]), flow))
        return [
            Fault(shard=path, kind="flow", detail=f"expected {usual}, found {flow}")
            for flow, paths in sorted(self._flows.items())
            if flow != usual
            for path in sorted(paths)
        ]


def _repeated(names: Iterable[str], shard: str, seen: dict[int, str]) -> list[tuple[str, str]]:
    """(name, shard that has it already) for names that are in ``seen``; the others are added to it."""
    repeated = []
    for name in names:
        digest = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest())
        if digest in seen:
            repeated.append((name, seen[digest]))
        else:
            seen[digest] = shard
    return repeated
