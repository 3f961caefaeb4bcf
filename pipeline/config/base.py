"""How a config states its rules: plain checks that name the field, the value and the fix."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, TypeVar

from pipeline.errors import ConfigError

T = TypeVar("T")


def require(ok: bool, field: str, value: object, fix: str) -> None:
    """Raise ConfigError(field, value, fix) unless ``ok``."""
    if not ok:
        raise ConfigError(field, value, fix)


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict of a config dataclass, JSON-ready (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[T], fields: dict[str, Any]) -> T:
    """Inverse of ``as_dict`` for a flat config: lists become the tuples they were.

    Raises:
        ConfigError: a value breaks its rule; TypeError: a field this code does not know.
    """
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def config_hash(config: Any) -> str:
    """First 16 hex digits of the sha256 of a config's canonical JSON: equal configs, equal hash."""
    text = json.dumps(as_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
