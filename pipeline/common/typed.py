"""Plain values, as JSON holds them, checked against type hints and made into dataclasses.

Nothing is converted but arrays, which become tuples: 12.7 is no int, "3" is no number, true is no number, a number is
finite. A float field takes a whole number as it is, so that what is read is written again byte for byte.
"""

# pydantic reads JSON as strictly and twice as fast, but refuses lone surrogates, which stand in our records for file
# names that are not UTF-8.

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pipeline.common.printable import printable

T = TypeVar("T")
MAX_DEPTH = 64
"""Of objects and arrays within each other, where the hint is ``Any``."""
MAX_INT = 2**63 - 1  # what arrays and tar headers hold


@dataclasses.dataclass(frozen=True)
class Range:
    """``Annotated[int, Range(0)]``: a number from ``low`` to ``high``, both included."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        return f"{self.low:g} or more" if self.high == math.inf else f"from {self.low:g} to {self.high:g}"


Count = Annotated[int, Range(0)]
"""Bytes, offsets, numbers of things."""


class Mismatch(ValueError):
    """A value is not what its field holds.

    Args:
        field: dotted, such as ``shards[3].size``.
        value: what was found.
        problem: what is wrong with it, or what it must be.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, problem)

    @property
    def field(self) -> str:
        return self.args[0]

    def within(self, outer: str) -> Mismatch:
        """The same, seen from a level further out; ``outer`` is a name or ``[INDEX]``."""
        dot = "." if self.field and not self.field.startswith("[") else ""
        return Mismatch(f"{printable(outer)}{dot}{self.field}", *self.args[1:])  # a name is whatever the JSON says

    def __str__(self) -> str:
        field, value, problem = self.args
        name = f"{field} = " if field else ""
        return f"{name}{shown(value)}: {problem}"


def shown(value: object, most: int = 80) -> str:
    """A value for a message, shortened."""
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INT:
        return f"a number of more than {len(str(MAX_INT)) - 1} digits"  # str() of it may raise
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def from_plain(hint: type[T], value: object, *, extra: bool = False) -> T:
    """``value`` as ``hint`` says; ``extra`` allows, and leaves out, fields that the outermost dataclass lacks.

    Raises:
        Mismatch: something is of another type, out of range, missing or unknown.
    """
    return _object(hint, extra)(value) if dataclasses.is_dataclass(hint) else reader(hint)(value)


@functools.cache
def reader(hint: Any) -> Callable[[Any], Any]:
    """A function that checks and converts values of one type hint."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _ranged(reader(args[0]), args[1])
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is None or hint is types.NoneType:
        return _literal((None,))
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _array(reader(args[0])) if args[1:] == (...,) else _row([reader(arg) for arg in args])
    if origin is dict:
        return _mapping(reader(args[1]))
    if origin in (Union, types.UnionType):
        return _union(args)
    if dataclasses.is_dataclass(hint):
        return _object(hint, False)
    raise TypeError(f"no reader for {hint}")


def _integer(value: Any) -> int:
    if type(value) is int and -MAX_INT <= value <= MAX_INT:
        return value
    raise Mismatch("", value, "must be a whole number")


def _number(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and -MAX_INT <= value <= MAX_INT:
        return value
    raise Mismatch("", value, "must be a finite number")


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    raise Mismatch("", value, "must be text")


def _truth(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise Mismatch("", value, "must be true or false")


def _anything(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Mismatch("", value, f"must be nested at most {MAX_DEPTH} deep")
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return value


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _truth,
    Any: _anything,
}


def _ranged(read: Callable[[Any], Any], limits: Range) -> Callable[[Any], Any]:
    low, high = limits.low, limits.high

    def ranged(value: Any) -> Any:
        found = read(value)
        if low <= found <= high:
            return found
        raise Mismatch("", value, f"must be {limits}")

    return ranged


def _literal(values: tuple[Any, ...]) -> Callable[[Any], Any]:
    kinds = {type(value) for value in values}
    words = " or ".join("nothing" if value is None else str(value) for value in values)

    def literal(value: Any) -> Any:
        if type(value) in kinds and value in values:
            return value
        raise Mismatch("", value, f"use {words}")

    return literal


def _array(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def array(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Mismatch("", value, "must be an array")
        found: list[Any] = []
        try:
            for item in value:
                found.append(read(item))
        except Mismatch as error:
            raise error.within(f"[{len(found)}]") from None
        return tuple(found)

    return array


def _row(reads: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def row(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != len(reads):
            raise Mismatch("", value, f"must be an array of {len(reads)}")
        return tuple(read(item) for read, item in zip(reads, value, strict=True))

    return row


def _mapping(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def mapping(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Mismatch("", value, "must be an object")
        name = ""
        found = {}
        try:
            for name, item in value.items():
                found[name] = read(item)
        except Mismatch as error:
            raise error.within(name) from None
        return found

    return mapping


def _union(hints: tuple[Any, ...]) -> Callable[[Any], Any]:
    if all(dataclasses.is_dataclass(hint) for hint in hints):
        by_kind: dict[str, Any] = {hint.kind: _object(hint, False) for hint in hints}  # type: ignore[union-attr]

        def chosen(value: Any) -> Any:
            if type(value) is not dict:
                raise Mismatch("", value, "must be an object")
            kind = value.get("kind")
            if type(kind) is not str or kind not in by_kind:
                raise Mismatch("kind", kind, f"use {' or '.join(by_kind)}")
            return by_kind[kind](value)

        return chosen
    reads = [reader(hint) for hint in hints if hint is not types.NoneType]
    if len(reads) != 1:
        raise TypeError(f"no reader for a union of {hints}")
    return lambda value: None if value is None else reads[0](value)


@functools.cache
def _object(kind: Any, extra: bool) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    reads = {field.name: reader(hints[field.name]) for field in fields}
    # Most values of a record are these, and the check in place costs half of a call.
    simple = {name: hint for name, hint in hints.items() if hint in (int, float, str)}
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def read_object(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("", value, "must be an object")
        name = ""
        found = {}
        try:
            for name, item in value.items():
                simply, read = simple.get(name), reads.get(name)
                if simply is type(item) and (simply is str or -MAX_INT <= item <= MAX_INT):
                    found[name] = item
                elif read is not None:
                    found[name] = read(item)
                elif not extra:
                    raise Mismatch("", item, f"there is no such field; use one of {', '.join(reads)}")
        except Mismatch as error:
            raise error.within(name) from None
        if not required <= found.keys():
            raise Mismatch(sorted(required - found.keys())[0], None, "it is missing")
        return kind(**found)

    return read_object
