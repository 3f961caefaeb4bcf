"""How a config states its rules: plain checks that name the field, the value and the fix."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, TypeVar

from pipeline.common.typed import MAX_INT, Mismatch, from_plain, shown
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
    """Inverse of ``as_dict``: nested configs by their type (of several types, the one whose ``kind`` the value has),
    lists back to the tuples they were. A field that is missing has its default: runs of older code lack some.

    Raises:
        ConfigError: a value is not of its field's type or breaks its rule, or this code does not know a field.
    """
    try:
        return from_plain(kind, fields)
    except Mismatch as error:
        _, value, problem = error.args
        plain = isinstance(value, str | float | bool | None) or (isinstance(value, int) and abs(value) <= MAX_INT)
        raise ConfigError(error.field, value if plain else _Shown(value), problem) from error


class _Shown(str):
    """A value too large for a message: its ``repr`` is its description."""

    def __new__(cls, value: object) -> _Shown:
        return super().__new__(cls, shown(value))

    def __repr__(self) -> str:
        return str(self)


def check_numbers(config: Any, prefix: str = "") -> None:
    """Refuse numbers that no field of a config can mean: infinite ones, NaN, and what 64 bits do not hold.

    Raises:
        ConfigError: names the first such field.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float):
                require(math.isfinite(number), name, number, "must be a finite number")
            elif isinstance(number, int):
                require(abs(number) <= MAX_INT, name, shown(number), f"must be at most {MAX_INT}")
