"""How much an archive may unpack to: a few bytes of zip, gzip or bzip2 can stand for any number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipeline.errors import RejectedSource, UserError

MAX_RATIO = 100
"""A video is compressed already and hardly shrinks in an archive; raw video shrinks to a fifth or a tenth."""
FREE_BYTES = 1 << 20  # counted for every member at least: 100 MiB may unpack from anything
MAX_MEMBERS = 4_000_000
"""Of one archive; each takes some hundred bytes of memory while the archive is indexed."""

T = TypeVar("T")


def check_ratio(unpacked_bytes: int, packed_bytes: int) -> None:
    """Raise RejectedSource ``too_large`` where that many bytes may not come of so few."""
    if unpacked_bytes > MAX_RATIO * max(packed_bytes, FREE_BYTES):
        raise RejectedSource(
            "too_large",
            f"{unpacked_bytes} bytes or more unpack from {packed_bytes} in the archive, over {MAX_RATIO} times as many:"
            " unpack it yourself if that is right",
        )


def check_number(members: Iterable[T], where: str) -> Iterator[T]:
    """The members; UserError where there are more than ``MAX_MEMBERS``."""
    for number, member in enumerate(members):
        if number == MAX_MEMBERS:
            raise UserError(f"{where} has more than {MAX_MEMBERS} members: split it, or unpack it")
        yield member
