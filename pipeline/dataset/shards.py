"""A shard: tar, DALI index and record.

train/shard-000000.tar    webdataset tar: members adjacent, sorted, mtime 0: same samples, same bytes
train/shard-000000.idx    DALI's webdataset index, version 1.2
train/shard-000000.json   the record, written last: without it the shard does not exist
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.common.strict_json import JsonError, as_object, checked, parse_json
from pipeline.common.typed import shown
from pipeline.dataset.sample import check_key, extension
from pipeline.errors import ManifestError

RECORD_VERSION = 1
_BLOCK = 512  # tar headers and bodies start at multiples of this


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One stored file of a sample: where its bytes (without the tar header) lie in the tar."""

    name: str  # webdataset extension: rgb.mp4, flow.mp4, diff.mp4, json
    offset: int
    size: int
    crc32: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One written sample. ``offset`` and ``size`` cover all its members with their headers: one ranged GET."""

    key: str
    label: int
    source: str
    num_frames: int  # RGB frames; flow and difference have one less
    fps: float
    width: int
    height: int
    offset: int
    size: int
    members: tuple[Member, ...]
    flow_saturation: float | None = None  # share of flow values beyond the bound
    flow_error_px: float | None = None  # mean |stored - computed| before video coding
    flow_mean_px: float | None = None  # mean length of the flow vectors
    decoded_frames: int | None = None  # pictures taken from the source, before its rate was made constant
    source_width: int | None = None  # of the source's pictures, upright
    source_height: int | None = None
    sar: str | None = None  # width:height of a pixel of the source's pictures, upright; 1:1 is square
    length_announced: bool | None = None  # False: the source's container does not say its length, it may be cut off

    def member(self, name: str) -> Member:
        """The member with that webdataset extension; ManifestError names what there is."""
        for member in self.members:
            if member.name == name:
                return member
        raise ManifestError(f"sample {self.key} has no {name!r}, only {[m.name for m in self.members]}")


class MemberRange(NamedTuple):
    """The fields of a ``Member`` as a tuple, which is made several times as fast."""

    name: str
    offset: int
    size: int
    crc32: int


class SampleRange(NamedTuple):
    """What one ranged GET of a sample needs: where its bytes are, and how they are cut into members and checked."""

    tar: str
    """Path of the tar, relative to the data set."""
    key: str
    offset: int
    size: int
    members: tuple[MemberRange, ...]
    """In the order of their offsets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A source that gave no sample."""

    source: str
    label: int
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a shard holds. inputs = len(samples) + len(rejects)."""

    split: str
    name: str  # shard-000000
    parameter_hash: str
    sources_sha256: str  # of the planned inputs, so that a re-run knows its shard
    size: int
    sha256: str
    samples: tuple[SampleRecord, ...]
    rejects: tuple[Reject, ...]
    flow: dict[str, Any] | None = None  # engine, version, mode and parameters, where flow is stored
    version: int = RECORD_VERSION

    @property
    def path(self) -> str:
        """Path of the shard without its ending, relative to the data set."""
        return f"{self.split}/{self.name}"

    def to_json(self) -> bytes:
        """Canonical bytes: equal records, equal bytes."""
        return (json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ShardRecord:
        """Parse a record; ManifestError names ``where`` and what is wrong."""
        try:
            fields = as_object(parse_json(data, where), where)
            if fields.get("version") != RECORD_VERSION:
                raise ManifestError(
                    f"{where}: record version {shown(fields.get('version'))}, this code reads {RECORD_VERSION}"
                )
            return checked(cls, fields, where)
        except JsonError as error:
            raise ManifestError(f"not a shard record: {error}") from error


class TarBuilder:
    """Writes a deterministic webdataset tar, sample by sample: members adjacent and sorted, mtime 0, no names of users.

    The bytes are those that the webdataset library's writer gives; this one takes files and never holds one in memory.
    """

    def __init__(self, path: Path) -> None:
        self._keys: set[str] = set()
        self._name = path.name
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> TarBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, key: str, members: Mapping[str, bytes | Path]) -> None:
        """Append one sample.

        Args:
            members: webdataset extension to content, as bytes or as a local file.

        Raises:
            ValueError: the key is outside the grammar or occurs twice.
        """
        if check_key(key) in self._keys:
            raise ValueError(f"sample key {key!r} occurs twice in {self._name}")
        self._keys.add(key)
        for name, content in sorted(members.items()):
            with contextlib.ExitStack() as stack:
                file = io.BytesIO(content) if isinstance(content, bytes) else stack.enter_context(content.open("rb"))
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(content) if isinstance(content, bytes) else content.stat().st_size
                info.mode, info.uname, info.gname = 0o444, "reciprocal", "reciprocal"
                self._tar.addfile(info, file)


def scan_tar(path: Path) -> list[tuple[str, int, int, tuple[Member, ...]]]:
    """Re-read a tar: (key, offset, size, members) per sample, offsets in bytes, crc32 of what is really there."""
    samples: list[tuple[str, int, int, list[Member]]] = []
    with tarfile.open(path) as tar, path.open("rb") as raw:
        for info in tar:
            key, _, name = info.name.partition(".")
            raw.seek(info.offset_data)
            crc32, left = 0, info.size
            while left and (block := raw.read(min(left, 1 << 20))):
                crc32, left = zlib.crc32(block, crc32), left - len(block)
            end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
            if not samples or samples[-1][0] != key:
                samples.append((key, info.offset, 0, []))
            first = samples[-1]
            first[3].append(Member(name=name, offset=info.offset_data, size=info.size, crc32=crc32))
            samples[-1] = (key, first[1], end - first[1], first[3])
    return [(key, offset, size, tuple(members)) for key, offset, size, members in samples]


def dali_index(record: ShardRecord) -> bytes:
    """DALI's webdataset index v1.2: per sample ``extension offset size file-name`` of each member."""
    lines = [f"v1.2 {len(record.samples)}"]
    for sample in record.samples:
        lines.append(" ".join(f"{m.name} {m.offset} {m.size} {sample.key}.{m.name}" for m in sample.members))
    return ("\n".join(lines) + "\n").encode()


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def split_members(sample: SampleRecord | SampleRange, data: bytes) -> dict[str, bytes]:
    """Cut the bytes of one ranged GET (``sample.offset``, ``sample.size``) into members, by extension.

    Raises:
        ValueError: ``data`` has the wrong length, or a member's crc32 differs from the record's.
    """
    if len(data) != sample.size:
        raise ValueError(f"{sample.key}: {len(data)} bytes instead of {sample.size}")
    members = {}
    for member in sample.members:
        start = member.offset - sample.offset
        body = data[start : start + member.size]
        if zlib.crc32(body) != member.crc32:
            raise ValueError(f"{sample.key}.{member.name}: crc32 {zlib.crc32(body):08x} instead of {member.crc32:08x}")
        members[member.name] = body
    return members


def sample_json(record_fields: Mapping[str, Any]) -> bytes:
    """The ``KEY.json`` member: what a reader without the record needs (label, class, frames, fps, size, source)."""
    buffer = io.StringIO()
    json.dump(dict(record_fields), buffer, sort_keys=True)
    return buffer.getvalue().encode()


def member_extensions(modalities: Sequence[str]) -> tuple[str, ...]:
    """Extensions of all members of a data set with these modalities, sorted as stored."""
    return tuple(sorted([*(extension(m) for m in modalities), "json"]))
