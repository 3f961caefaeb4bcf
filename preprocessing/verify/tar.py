"""Checks of a shard's tar: size, sha256, headers and the bytes of every member."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path

from pipeline.dataset.manifest import ShardEntry
from pipeline.dataset.shards import Member, ShardRecord
from pipeline.errors import NotFoundError
from pipeline.storage import Storage
from preprocessing.verify.faults import FaultList
from preprocessing.verify.video import FileSection

_BLOCK_BYTES = 8 << 20


def fetch_tar(storage: Storage, entry: ShardEntry, target: Path, faults: FaultList) -> bool:
    """Copy a shard's tar to a local file, block by block, and check size and sha256; False if it does not exist."""
    where = f"{entry.path}.tar"
    try:
        size = storage.size(where)
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for offset in range(0, size, _BLOCK_BYTES):
                block = storage.read_range(where, offset, min(_BLOCK_BYTES, size - offset))
                digest.update(block)
                file.write(block)
    except NotFoundError:
        faults.add("missing", f"the tar of {entry.num_samples} samples is not there", member="tar")
        return False
    if not faults.differ("tar", "size in bytes", entry.size, size, member="tar"):
        faults.differ("tar", "sha256", entry.sha256, digest.hexdigest(), member="tar")
    return True


def check_tar(tar: Path, record: ShardRecord, faults: FaultList) -> dict[str, dict[str, Member]]:
    """Compare a local tar with its record; returns the members whose bytes are as recorded: {key: {extension:
    member}}.
    """
    found: dict[str, tuple[int, int, int]] = {}  # file name to start of its header, start of its bytes, size
    stopped = ""
    try:
        with tarfile.open(tar, "r:") as file:
            for info in file:
                if info.name in found:
                    faults.add("tar", f"{info.name} occurs twice", member="tar")
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
    with FileSection(tar, member.offset, member.size) as section:
        while block := section.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32
