"""The manifest: the one list of what a data set version holds. It is written last, and readers trust nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.dataset.shards import ShardRecord
from pipeline.errors import ManifestError, NotFoundError
from pipeline.storage import Storage

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    split: str
    name: str
    num_samples: int
    num_rejects: int
    size: int
    sha256: str  # of the tar
    record_sha256: str  # of the record, which holds offsets and checksums of every member
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)  # of its rejects

    @property
    def path(self) -> str:
        """Path of the shard without its ending, relative to the data set."""
        return f"{self.split}/{self.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """One data set version. ``digest`` is its name everywhere."""

    dataset: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    parameters: dict[str, Any]  # of preprocessing: StoredConfig as a dict
    parameter_hash: str
    code_version: str
    shards: tuple[ShardEntry, ...]
    flow: dict[str, Any] | None = None  # engine, version, mode and parameters, where flow is stored
    version: int = MANIFEST_VERSION

    @property
    def num_inputs(self) -> int:
        """Planned sources: written and rejected."""
        return self.num_samples + self.num_rejects

    @property
    def num_samples(self) -> int:
        return sum(s.num_samples for s in self.shards)

    @property
    def num_rejects(self) -> int:
        return sum(s.num_rejects for s in self.shards)

    def reject_reasons(self) -> dict[str, int]:
        """Rejected sources by reason, most frequent first."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.reasons)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def split_sizes(self) -> dict[str, int]:
        """Samples per split, in the order train, val, test, then by name."""
        sizes: dict[str, int] = {}
        for shard in self.shards:
            sizes[shard.split] = sizes.get(shard.split, 0) + shard.num_samples
        order = {"train": 0, "val": 1, "test": 2}
        return dict(sorted(sizes.items(), key=lambda item: (order.get(item[0], 3), item[0])))

    def to_json(self) -> bytes:
        """Canonical bytes; their sha256 is the data version."""
        fields = dataclasses.asdict(self)
        if self.flow is None:
            del fields["flow"]
        for shard in fields["shards"]:
            if not shard["reasons"]:  # shards without rejects, and all of manifests from before reasons were counted
                del shard["reasons"]
        fields["totals"] = {
            "inputs": self.num_inputs,
            "samples": self.num_samples,
            "rejects": self.num_rejects,
            "splits": self.split_sizes(),
        }
        if reasons := self.reject_reasons():
            fields["totals"]["reasons"] = reasons
        return (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """sha256 of the stored bytes, hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Parse and check a manifest; ManifestError names ``where`` and what is wrong."""
        try:
            fields: dict[str, Any] = json.loads(data)
            if fields.get("version") != MANIFEST_VERSION:
                raise ManifestError(
                    f"{where}: manifest version {fields.get('version')!r}, this code reads {MANIFEST_VERSION}"
                )
            totals = fields.pop("totals")
            shards = tuple(ShardEntry(**s) for s in fields.pop("shards"))
            manifest = cls(
                shards=shards,
                classes=tuple(fields.pop("classes")),
                modalities=tuple(fields.pop("modalities")),
                **fields,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"{where} is not a manifest: {error!r}") from error
        if totals["inputs"] != manifest.num_inputs or totals["samples"] != manifest.num_samples:
            raise ManifestError(
                f"{where}: totals {totals} do not add up to its shards' {manifest.num_samples} samples and"
                f" {manifest.num_rejects} rejects"
            )
        return manifest


def read_manifest(storage: Storage) -> Manifest:
    """Read a data set's manifest.

    Raises:
        ManifestError: there is none (preprocessing has not finished), or it cannot be read.
        StorageSetupError: the storage cannot be reached.
    """
    where = f"{storage.uri}/{MANIFEST}"
    try:
        data = storage.read(MANIFEST)
    except NotFoundError as error:
        raise ManifestError(
            f"{where} does not exist: no data set is finished there; run jobs.preprocess with --out {storage.uri}"
        ) from error
    manifest = Manifest.from_json(data, where)
    if hashlib.sha256(data).hexdigest() != manifest.digest:
        raise ManifestError(f"{where} is not in canonical form: it was edited after it was written")
    return manifest


def read_records(storage: Storage, manifest: Manifest, split: str) -> list[ShardRecord]:
    """Records of all shards of a split, in the manifest's order, each checked against its sha256 in the manifest.

    Raises:
        ManifestError: the split does not exist or is empty, or a record is not the one the manifest lists.
    """
    entries: Sequence[ShardEntry] = [s for s in manifest.shards if s.split == split]
    if not sum(e.num_samples for e in entries):
        raise ManifestError(f"{storage.uri} has no samples in split {split!r}, only {manifest.split_sizes()}")
    records = []
    for entry in entries:
        where = f"{entry.path}.json"
        data = storage.read(where)
        if hashlib.sha256(data).hexdigest() != entry.record_sha256:
            raise ManifestError(
                f"{storage.uri}/{where} is not the record that the manifest lists; run jobs.preprocess again"
            )
        records.append(ShardRecord.from_json(data, where))
    return records


def entry_of(record: ShardRecord) -> ShardEntry:
    """The manifest's line for a record."""
    return ShardEntry(
        split=record.split,
        name=record.name,
        num_samples=len(record.samples),
        num_rejects=len(record.rejects),
        size=record.size,
        sha256=record.sha256,
        record_sha256=hashlib.sha256(record.to_json()).hexdigest(),
        reasons=dict(sorted(Counter(reject.reason for reject in record.rejects).items())),
    )
