"""``files.json``: what a checkpoint consists of. It is written last, so a folder without it is half a checkpoint.

It holds names, sizes and sha256 of the files, the position, the metrics measured there, and a sha256 of itself. A list
of a run's checkpoints, and the best of them, need no other file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.digest import file_sha256
from pipeline.common.strict_json import JsonError, as_object, checked, parse_json
from pipeline.common.typed import Count
from pipeline.errors import UserError

RECORD = "files.json"
_VERSION = 1
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclasses.dataclass(kw_only=True)
class Position:
    """The next step: ``step`` of ``epoch``, and how many steps have been taken in all."""

    epoch: Count = 0
    step: Count = 0
    global_step: Count = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a checkpoint."""

    name: str
    size: Count
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """``files.json`` of one checkpoint."""

    position: Position
    metrics: dict[str, Any]
    """Those that were measured at this position: numbers, or None for what is not finite."""
    files: tuple[StoredFile, ...]
    version: Count = _VERSION

    def to_json(self) -> bytes:
        """The bytes of ``files.json``."""
        fields = dataclasses.asdict(self)
        return json.dumps({**fields, "sha256": _digest(fields)}, sort_keys=True, indent=1).encode()


def record_of(folder: Path, position: Position, metrics: Mapping[str, float]) -> CheckpointRecord:
    """The record of a local folder whose files are about to be stored."""
    files = tuple(
        StoredFile(name=path.name, size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(folder.iterdir())
    )
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return CheckpointRecord(position=dataclasses.replace(position), metrics=finite, files=files)


def read_record(data: bytes, where: str) -> CheckpointRecord:
    """Parse ``files.json``.

    Args:
        where: the object, for messages.

    Raises:
        JsonError: it is damaged.
        UserError: newer code wrote it.
    """
    fields = as_object(parse_json(data, where), where)
    digest = fields.pop("sha256", None)
    if digest != _digest(fields):
        raise JsonError(f"{where} has other bytes than were written: its own sha256 does not fit")
    if fields.get("version") != _VERSION:
        raise UserError(f"{where} has version {fields.get('version')}, this code reads {_VERSION}: use newer code")
    record = checked(CheckpointRecord, fields, where, extra=True)
    for file in record.files:
        if not _FILE.fullmatch(file.name):
            raise JsonError(f"{where}: {file.name!r} is no name of a file")
    return record


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
