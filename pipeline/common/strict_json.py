"""One way to read all JSON of ours: manifests, records, runs, results, reports and lines of keys.

Whatever stands in the place of a file (nothing, half of it, something else) is one error that names the object and says
what to do.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pipeline.common.typed import Mismatch, from_plain, shown
from pipeline.errors import UserError

T = TypeVar("T")
MAX_BYTES = 1 << 30
"""Of one object; the record of a shard of 100,000 samples has 80 MB."""


class JsonError(UserError):
    """An object is not the JSON that it should be; the text names it."""


def parse_json(data: bytes | str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        where: the object, for messages.

    Raises:
        JsonError: it is empty, too large, cut off, not JSON, nested too deeply, or names a key twice.
    """
    if len(data) > MAX_BYTES:
        raise JsonError(f"{where} has {len(data)} bytes: at most {MAX_BYTES} are read")
    if not data.strip():
        raise JsonError(f"{where} is empty")
    try:
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise JsonError(f"{where} is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"{where} is not text: byte {error.start} is {error.object[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        what = "ends too early" if error.pos >= len(error.doc.rstrip()) else f"is not JSON: {error.msg}"
        raise JsonError(f"{where} {what} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:  # a key twice; digits beyond what Python converts
        raise JsonError(f"{where} is not JSON: {str(error).splitlines()[0]}") from None


def read_json(kind: type[T], data: bytes | str, where: str, *, extra: bool = False) -> T:
    """A JSON text as a dataclass (or another type that ``pipeline.common.typed`` knows).

    Args:
        where: the object, for messages.
        extra: allow fields that ``kind`` lacks, and leave them out.

    Raises:
        JsonError: as of ``parse_json``; or a field is missing, unknown, of another type or out of range.
    """
    return checked(kind, parse_json(data, where), where, extra=extra)


def checked(kind: type[T], value: object, where: str, *, extra: bool = False) -> T:
    """A parsed value as a dataclass; arguments and errors as of ``read_json``."""
    try:
        return from_plain(kind, value, extra=extra)
    except Mismatch as error:
        raise JsonError(f"{where}: {error}") from error


def as_object(value: object, where: str) -> dict[str, Any]:
    """``value``, which must be a JSON object; JsonError otherwise."""
    if not isinstance(value, dict):
        raise JsonError(f"{where} is {shown(value)}: must be an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} occurs twice in an object")
    return found
