"""How a config states its rules: plain checks that name the field, the value and the fix."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from pipeline.errors import ConfigError


def require(ok: bool, field: str, value: object, fix: str) -> None:
    """Raise ConfigError(field, value, fix) unless ``ok``."""
    if not ok:
        raise ConfigError(field, value, fix)


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict of a config dataclass, JSON-ready (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_hash(config: Any) -> str:
    """First 16 hex digits of the sha256 of a config's canonical JSON: equal configs, equal hash."""
    text = json.dumps(as_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
