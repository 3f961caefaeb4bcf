"""Re-read one stored shard, compare it with its manifest entry and report every fault.

    record -> index -> tar (fetched in blocks and hashed) -> headers -> members' bytes -> decoded videos

No check stops at the first fault, and no damage is reported twice: bytes that are known to be wrong are not decoded.
What shards must not share is checked in ``preprocessing.verify.dataset``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2

from pipeline.common.strict_json import MAX_BYTES
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.dataset.rules import stored_parameters
from pipeline.dataset.shards import Member, SampleRecord, ShardRecord, dali_index
from pipeline.errors import ConfigError, ManifestError, NotFoundError
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder
from preprocessing.verify.faults import Fault, FaultList
from preprocessing.verify.media import check_videos
from preprocessing.verify.record import check_description, check_record
from preprocessing.verify.tar import check_tar, fetch_tar
from preprocessing.verify.video import FileSection

Decode = Literal["all", "none"] | int
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """What was found in one shard. Keys and sources are for the checks over the whole data set."""

    path: str
    faults: tuple[Fault, ...]
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # of samples and rejects
    flow: str = ""  # engine, version, mode and parameters as JSON, where the manifest does not say them
    num_bytes: int = 0  # of the tar, read
    num_decoded: int = 0  # samples
    num_frames: int = 0  # decoded, of all members


def verify_shard_at(storage: Storage, entry: ShardEntry, manifest: Manifest, decode: Decode = "all") -> ShardCheck:
    """Re-read a shard and report every fault. Sets OpenCV to one thread: a task has one core.

    Args:
        entry: the shard's entry in the manifest, with which everything else is compared.
        manifest: for classes, modalities and the parameter hash; its list of shards is not read.
        decode: samples whose videos are decoded: all, none, or a number, evenly spaced.

    Raises:
        StorageError: the storage failed; that says nothing about the data.
    """
    cv2.setNumThreads(1)
    faults = FaultList(entry.path)
    record = _read_record(storage, entry, faults)
    if record is not None:
        check_record(record, entry, manifest, faults)
    empty = entry.size == 0 and entry.num_samples == 0
    try:
        index = None if empty else storage.read(f"{entry.path}.idx")
    except NotFoundError:
        faults.add("missing", "the index is not there", member="idx")
    else:
        if record is not None and index is not None and index != dali_index(record):
            faults.add(
                "index",
                f"expected the {len(dali_index(record))} bytes that follow from the record, found {len(index)} others",
                member="idx",
            )
    num_bytes = num_decoded = num_frames = 0
    with scratch_folder() as folder:
        tar = folder / "shard.tar"
        if empty:
            # Nothing was written: no tar, no index. If they exist all the same, the listing reports them as strays.
            faults.differ("record", "sha256 of no samples", _EMPTY_SHA256, entry.sha256)
        elif fetch_tar(storage, entry, tar, faults):
            num_bytes = tar.stat().st_size
            if record is not None:
                intact = check_tar(tar, record, faults)
                num_decoded, num_frames = _check_samples(tar, record, manifest, intact, decode, faults)
    return ShardCheck(
        path=entry.path,
        faults=tuple(faults.found),
        keys=tuple(s.key for s in record.samples) if record else (),
        sources=tuple(s.source for s in (*record.samples, *record.rejects)) if record else (),
        flow=json.dumps(record.flow, sort_keys=True) if record and record.flow and manifest.flow is None else "",
        num_bytes=num_bytes,
        num_decoded=num_decoded,
        num_frames=num_frames,
    )


def _read_record(storage: Storage, entry: ShardEntry, faults: FaultList) -> ShardRecord | None:
    where = f"{entry.path}.json"
    try:
        data = storage.read(where, MAX_BYTES)
    except NotFoundError:
        faults.add("missing", "the record is not there", member="json")
        return None
    faults.differ("record", "sha256", entry.record_sha256, hashlib.sha256(data).hexdigest(), member="json")
    try:
        return ShardRecord.from_json(data, where)
    except ManifestError as error:
        faults.add("record", str(error), member="json")
        return None


def _check_samples(
    tar: Path,
    record: ShardRecord,
    manifest: Manifest,
    intact: dict[str, dict[str, Member]],
    decode: Decode,
    faults: FaultList,
) -> tuple[int, int]:
    """``KEY.json`` of every sample and the videos of the chosen ones; returns the numbers of samples and frames
    decoded.
    """
    chosen = _chosen(record.samples, decode)
    try:
        stored = stored_parameters(manifest.parameters)
    except ConfigError:  # a fault of the manifest, reported with it
        stored = StoredConfig()
    num_decoded = num_frames = 0
    for number, sample in enumerate(record.samples):
        members = intact.get(sample.key, {})
        if "json" in members:
            with FileSection(tar, members["json"].offset, members["json"].size) as section:
                check_description(section.read(), sample, manifest.classes, faults)
        if number in chosen and members:
            num_frames += check_videos(
                tar,
                sample,
                manifest.modalities,
                stored,
                members,
                lambda member, kind, detail, key=sample.key: faults.add(kind, detail, key, member),
            )
            num_decoded += 1
    return num_decoded, num_frames


def _chosen(samples: Sequence[SampleRecord], decode: Decode) -> frozenset[int]:
    if decode == "all":
        return frozenset(range(len(samples)))
    number = 0 if decode == "none" else min(decode, len(samples))
    return frozenset(i * len(samples) // number for i in range(number))
