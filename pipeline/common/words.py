"""Numbers in messages for people."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 fault``, ``2 faults``; ``plural`` where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def sized(num_bytes: float) -> str:
    """Bytes in the decimal unit that suits: ``1.5 GB``."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if num_bytes >= 10**power:
            return f"{num_bytes / 10**power:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} KB"
