"""How a config states its rules: plain checks that name the field, the value and the fix."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar, get_args, get_type_hints

from pipeline.errors import ConfigError

T = TypeVar("T")


def require(ok: bool, field: str, value: object, fix: str) -> None:
    """Raise ConfigError(field, value, fix) unless ``ok``."""
    if not ok:
        raise ConfigError(field, value, fix)


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict of a config dataclass, JSON-ready (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[T], fields: dict[str, Any], prefix: str = "") -> T:
    """Inverse of ``as_dict``: nested configs by their type (of several types, the one whose ``kind`` the value has),
    lists back to the tuples they were. A field that is missing has its default: runs of older code lack some.

    Args:
        prefix: of field names in messages, such as ``model.``.

    Raises:
        ConfigError: a value breaks its rule, or this code does not know a field.
    """
    hints = get_type_hints(kind)
    types = {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in fields.keys() - types.keys():
        raise ConfigError(prefix + name, fields[name], f"there is no such field; use one of {', '.join(types)}")
    return kind(**{name: _from_plain(types[name], value, prefix + name) for name, value in fields.items()})


def _from_plain(hint: Any, value: Any, field: str) -> Any:
    if isinstance(value, list):
        return tuple(value)
    kinds: list[Any] = [kind for kind in (get_args(hint) or (hint,)) if dataclasses.is_dataclass(kind)]
    if not kinds or not isinstance(value, dict):
        return value
    if len(kinds) > 1:
        by_kind = {kind.kind: kind for kind in kinds}
        require(value.get("kind") in by_kind, f"{field}.kind", value.get("kind"), f"use {' or '.join(by_kind)}")
        return from_dict(by_kind[value["kind"]], value, f"{field}.")
    return from_dict(kinds[0], value, f"{field}.")
