"""Numbers in messages for people."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 fault``, ``2 faults``; ``plural`` where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def alternatives(numbers: Sequence[int]) -> str:
    """Numbers of which one holds: ``8``, ``8 or 4``, ``8, 4 or 2``."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def sized(num_bytes: float) -> str:
    """Bytes in the decimal unit that suits: ``1.5 GB``."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if num_bytes >= 10**power:
            return f"{num_bytes / 10**power:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} KB"
