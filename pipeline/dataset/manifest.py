"""The manifest: the one list of what a data set version holds. It is written last, and readers trust nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.common.printable import printable
from pipeline.common.strict_json import MAX_BYTES, JsonError, as_object, checked, parse_json
from pipeline.common.typed import Count, shown
from pipeline.dataset.rules import record_problems, stored_parameters
from pipeline.dataset.sample import MODALITIES
from pipeline.dataset.shards import ShardRecord
from pipeline.errors import ConfigError, ManifestError, NotAFileError, NotFoundError
from pipeline.storage import Storage

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    split: str
    name: str
    num_samples: Count
    num_rejects: Count
    size: Count
    sha256: str  # of the tar
    record_sha256: str  # of the record, which holds offsets and checksums of every member
    reasons: dict[str, Count] = dataclasses.field(default_factory=dict)  # of its rejects

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
        """Parse a manifest; ManifestError names ``where`` and what is wrong. ``manifest_problems`` has what is wrong in
        spite of the right types.
        """
        try:
            fields = as_object(parse_json(data, where), where)
            if fields.get("version") != MANIFEST_VERSION:
                raise ManifestError(
                    f"{where}: manifest version {shown(fields.get('version'))}, this code reads {MANIFEST_VERSION}"
                )
            totals = as_object(fields.pop("totals", None), f"{where}: totals")
            manifest = checked(cls, fields, where)
        except JsonError as error:
            raise ManifestError(f"this is not a manifest: {error}") from error
        if (totals.get("inputs"), totals.get("samples")) != (manifest.num_inputs, manifest.num_samples):
            raise ManifestError(
                f"{where}: totals {shown(totals)} do not add up to its shards' {manifest.num_samples} samples and"
                f" {manifest.num_rejects} rejects"
            )
        return manifest


def _fix(storage: Storage) -> str:
    return (
        f"python -m jobs.verify {storage.uri} reports every fault; restore it, or run jobs.preprocess again with"
        " --overwrite"
    )


def read_manifest(storage: Storage, *, fix: str = "") -> Manifest:
    """Read a data set's manifest.

    Args:
        fix: what the user shall do about a damaged one; default: verify it, and restore it or build it again.

    Raises:
        ManifestError: there is none (preprocessing has not finished), or it cannot be read or trusted.
        StorageSetupError: the storage cannot be reached.
    """
    where, fix = f"{storage.uri}/{MANIFEST}", fix or _fix(storage)
    data = manifest_bytes(storage)
    try:
        manifest = Manifest.from_json(data, where)
    except ManifestError as error:
        raise ManifestError(f"{error}; {fix}") from error
    if hashlib.sha256(data).hexdigest() != manifest.digest:
        raise ManifestError(f"{where} is not in canonical form: it was edited after it was written; {fix}")
    if problems := manifest_problems(manifest):
        raise ManifestError(f"{where}: {problems[0]}; {fix}")
    return manifest


def manifest_problems(manifest: Manifest) -> list[str]:
    """What is wrong with a manifest whose fields have the right types."""
    found = []
    for what, names in (
        ("shard", [s.path for s in manifest.shards]),
        ("class", manifest.classes),
        ("modality", manifest.modalities),
    ):
        found += [f"{what} {name!r} is listed {count} times" for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in manifest.modalities if name not in MODALITIES]
    if unknown or "rgb" not in manifest.modalities:
        found.append(
            f"modalities: expected rgb and others of {', '.join(MODALITIES)}, found {', '.join(manifest.modalities)}"
        )
    found += [
        f"shard {s.path!r}: expected train, val or test and a name without '/'"
        for s in manifest.shards
        if s.split not in SPLITS or not s.name or "/" in s.name or s.name.startswith(".")
    ]
    try:
        stored_parameters(manifest.parameters)
    except ConfigError as error:
        field, value, fix = error.args
        found.append(f"parameters.{field.removeprefix('stored.')} = {value!r}: {fix}")
    return found


def manifest_bytes(storage: Storage) -> bytes:
    """The manifest as it is stored.

    Raises:
        ManifestError: there is none: preprocessing has not finished.
    """
    try:
        return storage.read(MANIFEST, MAX_BYTES)
    except NotAFileError as error:
        raise ManifestError(f"{error}: move it away, and restore the file or run jobs.preprocess again") from error
    except NotFoundError as error:
        raise ManifestError(
            f"{error}: no data set is finished there; run jobs.preprocess with --out {storage.uri}, or check the URI"
        ) from error


def read_record(storage: Storage, manifest: Manifest, entry: ShardEntry) -> ShardRecord:
    """The record of a shard, checked against its sha256 in the manifest and against the rules of records.

    Raises:
        ManifestError: it is gone, is not the one that the manifest lists, or cannot be trusted.
    """
    where = f"{storage.uri}/{entry.path}.json"
    fix = _fix(storage)
    try:
        data = storage.read(f"{entry.path}.json", MAX_BYTES)
    except NotFoundError as error:
        raise ManifestError(f"{error}: {storage.uri} is not complete; {fix}") from error
    if hashlib.sha256(data).hexdigest() != entry.record_sha256:
        raise ManifestError(f"{where} is not the record that the manifest lists; {fix}")
    try:
        record = ShardRecord.from_json(data, where)
    except ManifestError as error:
        raise ManifestError(f"{error}; {fix}") from error
    held = (record.split, record.name, len(record.samples), len(record.rejects), record.size)
    if held != (entry.split, entry.name, entry.num_samples, entry.num_rejects, entry.size):
        raise ManifestError(f"{where} has not the name, size and numbers of samples that the manifest lists; {fix}")
    if problem := next(record_problems(record, len(manifest.classes), manifest.modalities), None):
        sample = f" sample {printable(problem.key)}:" if problem.key else ""
        raise ManifestError(f"{where}:{sample} {problem.kind}: {problem.detail}; {fix}")
    return record


def read_records(storage: Storage, manifest: Manifest, split: str) -> list[ShardRecord]:
    """Records of all shards of a split, in the manifest's order, each as ``read_record`` gives it.

    Raises:
        ManifestError: the split does not exist or is empty, or a record cannot be trusted.
    """
    entries: Sequence[ShardEntry] = [s for s in manifest.shards if s.split == split]
    if not sum(e.num_samples for e in entries):
        raise ManifestError(f"{storage.uri} has no samples in split {split!r}, only {manifest.split_sizes()}")
    return [read_record(storage, manifest, entry) for entry in entries]


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
