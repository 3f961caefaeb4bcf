"""Re-read one stored shard against its manifest entry and name every fault. A data set:
``preprocessing.verify.dataset``.

    record -> index -> tar (fetched in blocks, hashed on the way) -> headers -> members' bytes -> decoded videos

Nothing stops at the first fault, and no damage is named twice: bytes that are known to be wrong are not decoded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2

from pipeline.dataset.manifest import Manifest, ShardEntry
from pipeline.dataset.sample import check_key
from pipeline.dataset.shards import Member, SampleRecord, ShardRecord, dali_index, member_extensions
from pipeline.errors import ManifestError, NotFoundError
from pipeline.storage import Storage
from pipeline.storage.scratch import scratch_folder
from preprocessing.verify.faults import Fault, FaultList
from preprocessing.verify.media import Window, check_videos

Decode = Literal["all", "none"] | int
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_BLOCK = 8 << 20


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
    """Re-read a shard and name every fault. Sets OpenCV to one thread: a task is one core.

    Args:
        entry: the shard's line in the manifest: what everything else is held against.
        manifest: for classes, modalities and the parameter hash; its list of shards is not read.
        decode: samples whose videos are decoded: all, none, or so many, evenly spaced.

    Raises:
        StorageError: the storage failed; that says nothing about the data.
    """
    cv2.setNumThreads(1)
    faults = FaultList(entry.path)
    record = _read_record(storage, entry, faults)
    if record is not None:
        _check_record(record, entry, manifest, faults)
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
            # Nothing was written: no tar, no index. If they are there all the same, the listing names them as strays.
            faults.differ("record", "sha256 of no samples", _EMPTY_SHA256, entry.sha256)
        elif _fetch(storage, entry, tar, faults):
            num_bytes = tar.stat().st_size
            if record is not None:
                intact = _check_tar(tar, record, faults)
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
        data = storage.read(where)
    except NotFoundError:
        faults.add("missing", "the record is not there", member="json")
        return None
    faults.differ("record", "sha256", entry.record_sha256, hashlib.sha256(data).hexdigest(), member="json")
    try:
        return ShardRecord.from_json(data, where)
    except ManifestError as error:
        faults.add("record", str(error), member="json")
        return None


def _check_record(record: ShardRecord, entry: ShardEntry, manifest: Manifest, faults: FaultList) -> None:
    """The record against the manifest, and against itself."""
    found = {
        "split": record.split,
        "name": record.name,
        "num_samples": len(record.samples),
        "num_rejects": len(record.rejects),
        "size": record.size,
        "sha256": record.sha256,
    }
    for name, value in found.items():
        faults.differ("record", name, getattr(entry, name), value, member="json")
    if entry.reasons:  # manifests from before reasons were counted have none
        reasons = dict(sorted(Counter(reject.reason for reject in record.rejects).items()))
        faults.differ("record", "reasons of rejects", entry.reasons, reasons, member="json")
    faults.differ("record", "parameter_hash", manifest.parameter_hash, record.parameter_hash, member="json")
    if manifest.flow is not None:  # manifests from before the engine was in them have none
        faults.differ("flow", "engine and parameters", manifest.flow, record.flow, member="json")
    expected = member_extensions(manifest.modalities)
    for sample in record.samples:
        try:
            check_key(sample.key)
        except ValueError as error:
            faults.add("key", str(error), sample.key)
        if not 0 <= sample.label < len(manifest.classes):
            faults.add("label", f"expected 0 to {len(manifest.classes) - 1}, found {sample.label}", sample.key)
        faults.differ("record", "members", ", ".join(expected), ", ".join(m.name for m in sample.members), sample.key)
        if not (sample.num_frames >= 2 and sample.width > 0 and sample.height > 0 and 0 < sample.fps < math.inf):
            faults.add(
                "record",
                f"{sample.num_frames} frames of {sample.width}x{sample.height} at {sample.fps} frames/s are no video"
                " with motion",
                sample.key,
            )
    for reject in record.rejects:
        if not 0 <= reject.label < len(manifest.classes):
            faults.add(
                "label",
                f"reject {reject.source!r}: expected 0 to {len(manifest.classes) - 1}, found {reject.label}",
                member="json",
            )


def _fetch(storage: Storage, entry: ShardEntry, target: Path, faults: FaultList) -> bool:
    """Copy a shard's tar to a local file, a block at a time, and check size and sha256; False where it is not there."""
    where = f"{entry.path}.tar"
    try:
        size = storage.size(where)
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for offset in range(0, size, _BLOCK):
                block = storage.read_range(where, offset, min(_BLOCK, size - offset))
                digest.update(block)
                file.write(block)
    except NotFoundError:
        faults.add("missing", f"the tar of {entry.num_samples} samples is not there", member="tar")
        return False
    if not faults.differ("tar", "size in bytes", entry.size, size, member="tar"):
        faults.differ("tar", "sha256", entry.sha256, digest.hexdigest(), member="tar")
    return True


def _check_tar(tar: Path, record: ShardRecord, faults: FaultList) -> dict[str, dict[str, Member]]:
    """Compare a local tar with its record; returns the members whose bytes are the record's: {key: {extension:
    member}}.
    """
    found: dict[str, tuple[int, int, int]] = {}  # file name to start of its header, start of its bytes, size
    stopped = ""
    try:
        with tarfile.open(tar, "r:") as file:
            for info in file:
                if info.name in found:
                    faults.add("tar", f"{info.name} stands in it twice", member="tar")
                found[info.name] = (info.offset, info.offset_data, info.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        stopped = f"; reading stopped: {error}"
    expected = {f"{s.key}.{m.name}": m for s in record.samples for m in s.members}
    absent = [name for name in expected if name not in found]
    if absent:
        faults.add(
            "tar",
            f"{len(absent)} of {len(expected)} members are not in its headers, first {absent[0]}{stopped}",
            member="tar",
        )
    elif stopped:
        faults.add("tar", stopped[2:], member="tar")
    for name in found.keys() - expected.keys():
        faults.add("tar", f"{name} is in it, but not in the record", member="tar")
    size, intact = tar.stat().st_size, dict[str, dict[str, Member]]()
    for sample in record.samples:
        places = [found[f"{sample.key}.{m.name}"] for m in sample.members if f"{sample.key}.{m.name}" in found]
        if len(places) == len(sample.members) > 0:
            start, end = places[0][0], places[-1][1] + -(-places[-1][2] // 512) * 512
            faults.differ("record", "offset and size", (start, end - start), (sample.offset, sample.size), sample.key)
        for member in sample.members:
            place = found.get(f"{sample.key}.{member.name}")
            if place is not None and faults.differ(
                "record", "offset and size", place[1:], (member.offset, member.size), sample.key, member.name
            ):
                continue
            if member.offset + member.size > size:
                faults.add(
                    "tar",
                    f"expected bytes {member.offset} to {member.offset + member.size}, the tar ends at {size}",
                    sample.key,
                    member.name,
                )
                continue
            crc32 = _crc32(tar, member)
            if not faults.differ("crc32", "crc32", f"{member.crc32:08x}", f"{crc32:08x}", sample.key, member.name):
                intact.setdefault(sample.key, {})[member.name] = member
    return intact


def _crc32(tar: Path, member: Member) -> int:
    crc32 = 0
    with Window(tar, member.offset, member.size) as window:
        while block := window.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


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
    num_decoded = num_frames = 0
    for number, sample in enumerate(record.samples):
        members = intact.get(sample.key, {})
        if "json" in members:
            with Window(tar, members["json"].offset, members["json"].size) as window:
                _check_description(window.read(), sample, manifest.classes, faults)
        if number in chosen and members:
            num_frames += check_videos(
                tar,
                sample,
                manifest.modalities,
                manifest.parameters,
                members,
                lambda member, kind, detail, key=sample.key: faults.add(kind, detail, key, member),
            )
            num_decoded += 1
    return num_decoded, num_frames


def _check_description(data: bytes, sample: SampleRecord, classes: tuple[str, ...], faults: FaultList) -> None:
    """``KEY.json`` agrees with the record, and its class with its label."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except ValueError as error:
        faults.add("json", f"expected a JSON object, found {error}", sample.key, "json")
        return
    names = ("key", "label", "source", "num_frames", "fps", "width", "height")
    expected = {name: getattr(sample, name) for name in names}
    if 0 <= sample.label < len(classes):
        expected["class"] = classes[sample.label]
    for name, value in expected.items():
        faults.differ("json", name, repr(value), repr(found.get(name)), sample.key, "json")


def _chosen(samples: Sequence[SampleRecord], decode: Decode) -> frozenset[int]:
    if decode == "all":
        return frozenset(range(len(samples)))
    number = 0 if decode == "none" else min(decode, len(samples))
    return frozenset(i * len(samples) // number for i in range(number))
