"""Damaged data sets: what can stand in the place of a file, and what can be wrong in one with all checksums right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.dataset.manifest import MANIFEST
from pipeline.storage import LocalStorage

SHARD = "train/shard-000000"
RECORD = f"{SHARD}.json"


@dataclasses.dataclass(frozen=True)
class Damage:
    """One way to damage a sound data set of ``tests.support.stored_set``."""

    name: str
    object: str  # path of what is damaged
    apply: Callable[[LocalStorage], None]


def damages() -> Iterator[Damage]:
    """All of them: every mutation of bytes for manifest and record, every wrong value in either."""
    for path in (MANIFEST, RECORD):
        for name, change in BYTES.items():
            yield Damage(f"{path}: {name}", path, lambda s, path=path, change=change: _rewrite(s, path, change))
        for name, place in PLACES.items():
            yield Damage(f"{path}: {name}", path, lambda s, path=path, place=place: _replace(s, path, place))
    for name, change in _MANIFEST.items():
        yield Damage(f"manifest with {name}", MANIFEST, lambda s, change=change: _edit_manifest(s, change))
    for name, change in _RECORD.items():
        yield Damage(f"record with {name}", RECORD, lambda s, change=change: _edit_record(s, change))


def _rewrite(storage: LocalStorage, path: str, change: Callable[[bytes], bytes]) -> None:
    storage.write(path, change(storage.read(path)))
    if path == RECORD:
        _relist(storage)


_DEEP = b'{"a":' * 300 + b"1" + b"}" * 300
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "only blanks": lambda data: b" \n\n",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data.rstrip()[:-1],
    "binary": lambda data: bytes(range(256)) * 9,
    "a page of HTML": lambda data: b"<!doctype html>",
    "nested 100,000 deep": lambda data: b"[" * 100_000,
    "nested 300 deep in a field": lambda data: data.replace(
        b"{", b'{"flow": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b",", 1
    ),
    "a list": lambda data: b"[" + data + b"]",
    "a number": lambda data: b"3",
    "null": lambda data: b"null",
    "another version": lambda data: data.replace(b'"version": 1', b'"version": [2]'),
    "a key twice": lambda data: data.replace(b"{", b'{"flow": null, "flow": {},', 1),
    "a number of 5000 digits": lambda data: data.replace(b'"version": 1', b'"version": ' + b"9" * 5000),
    "an unknown field": lambda data: data.replace(b"{", b'{"more": 1,', 1),
}


def _replace(storage: LocalStorage, path: str, place: Callable[[str], None]) -> None:
    target = storage.root / path
    target.unlink()
    place(str(target))


PLACES: dict[str, Callable[[str], None]] = {
    "gone": lambda target: None,
    "a folder": lambda target: os.mkdir(target),
    "a pipe": lambda target: os.mkfifo(target),
    "a device that never ends": lambda target: os.symlink("/dev/zero", target),
    "a link to itself": lambda target: os.symlink(target, target),
}


def _edit_manifest(storage: LocalStorage, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(storage.read(MANIFEST))
    change(fields)
    storage.write(MANIFEST, (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode())


def _edit_record(storage: LocalStorage, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(storage.read(RECORD))
    change(fields)
    storage.write(RECORD, (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode())
    _relist(storage)


def _relist(storage: LocalStorage) -> None:
    """The manifest lists the record as it is now."""
    digest = hashlib.sha256(storage.read(RECORD)).hexdigest()
    _edit_manifest(storage, lambda fields: fields["shards"][0].update(record_sha256=digest))


def _sets(*path: str | int, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(fields: Any) -> None:
        for name in path[:-1]:
            fields = fields[name]
        fields[path[-1]] = value

    return change


def _removes(*path: str | int) -> Callable[[dict[str, Any]], object]:
    def change(fields: Any) -> None:
        for name in path[:-1]:
            fields = fields[name]
        del fields[path[-1]]

    return change


_MANIFEST: dict[str, Callable[[dict[str, Any]], object]] = {
    "parameters as a list": _sets("parameters", value=[]),
    "flow_bound 0": _sets("parameters", "flow_bound", value=0),
    "flow_bound NaN": _sets("parameters", "flow_bound", value=float("nan")),
    "flow_bound infinite": _sets("parameters", "flow_bound", value=float("inf")),
    "flow_bound as text": _sets("parameters", "flow_bound", value="20"),
    "a fractional crf": _sets("parameters", "crf", value=20.5),
    "a short side of 0": _sets("parameters", "short_side", value=0),
    "doubled classes": lambda fields: fields["classes"].__setitem__(1, fields["classes"][0]),
    "classes as text": _sets("classes", value="walk"),
    "a class that is a number": _sets("classes", 0, value=7),
    "no classes": _removes("classes"),
    "modalities it cannot have": _sets("modalities", value=["rgb", "sound"]),
    "shards as an object": _sets("shards", value={}),
    "a shard that is text": _sets("shards", 0, value="train/shard-000000"),
    "a shard outside": _sets("shards", 0, "split", value="../train"),
    "a shard's name with a slash": _sets("shards", 0, "name", value="a/b"),
    "a negative size": _sets("shards", 0, "size", value=-5),
    "a fractional number of samples": _sets("shards", 0, "num_samples", value=1.5),
    "a huge size": _sets("shards", 0, "size", value=10**30),
    "reasons as a list": _sets("shards", 0, "reasons", value=["missing"]),
    "totals that do not add up": _sets("totals", "inputs", value=99),
    "totals as a list": _sets("totals", value=[1, 2]),
    "no totals": _removes("totals"),
    "a digest that is a number": _sets("shards", 0, "sha256", value=5),
}

_SAMPLE = ("samples", 0)
_MEMBER = (*_SAMPLE, "members", 0)
_RECORD: dict[str, Callable[[dict[str, Any]], object]] = {
    "a fractional label": _sets(*_SAMPLE, "label", value=0.5),
    "a whole label written as 0.0": _sets(*_SAMPLE, "label", value=0.0),
    "a label that is true": _sets(*_SAMPLE, "label", value=True),
    "a negative label": _sets(*_SAMPLE, "label", value=-1),
    "a label without a class": _sets(*_SAMPLE, "label", value=99),
    "a fractional offset": _sets(*_SAMPLE, "offset", value=0.5),
    "a negative offset": _sets(*_SAMPLE, "offset", value=-512),
    "a negative size": _sets(*_SAMPLE, "size", value=-1),
    "a huge offset": _sets(*_SAMPLE, "offset", value=10**25),
    "a member of negative size": _sets(*_MEMBER, "size", value=-7),
    "a member at a fractional offset": _sets(*_MEMBER, "offset", value=512.5),
    "a member outside its sample": _sets(*_MEMBER, "offset", value=2**40),
    "a crc32 of 64 bits": _sets(*_MEMBER, "crc32", value=2**40),
    "a member that is text": _sets(*_MEMBER, value="rgb.mp4"),
    "no members": _sets(*_SAMPLE, "members", value=[]),
    "a member missing": _removes(*_MEMBER),
    "one frame": _sets(*_SAMPLE, "num_frames", value=1),
    "as many frames as no video has": _sets(*_SAMPLE, "num_frames", value=2**40),
    "a rate of 0": _sets(*_SAMPLE, "fps", value=0),
    "an infinite rate": _sets(*_SAMPLE, "fps", value=float("inf")),
    "a width as text": _sets(*_SAMPLE, "width", value="48"),
    "a height of 0": _sets(*_SAMPLE, "height", value=0),
    "a key that forges a line": _sets(*_SAMPLE, "key", value="a\n00:00:00 INFO all is well\x1b[2J"),
    "a key that is null": _sets(*_SAMPLE, "key", value=None),
    "samples as an object": _sets("samples", value={}),
    "flow that is text": _sets("flow", value="tvl1"),
    "flow_mean_px that is NaN": _sets(*_SAMPLE, "flow_mean_px", value=float("nan")),
    "no rejects": _removes("rejects"),
    "no samples, which the manifest counts": _sets("samples", value=[]),
}
