"""What all lists share: rows, split names, seconds, and videos that are listed twice."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from pipeline.common.typed import shown
from pipeline.errors import UserError
from preprocessing.annotations.types import SPLITS

log = logging.getLogger(__name__)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What lists call the splits."""
MOST_SECONDS = 1e7
"""115 days: longer than any video, short enough for every unit that times are counted in."""
_MOST_DIGITS = 9
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """One listed video before it has a label."""

    where: str  # FILE:LINE
    key: str  # what makes it this video
    class_name: str
    split: str
    item: T  # what else the format needs of it


def first_seen(rows: Iterable[Row[T]]) -> dict[str, str]:
    """Every class name with the place where it first occurs."""
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(row.class_name, row.where)
    return found


def unique(rows: Iterable[Row[T]]) -> list[Row[T]]:
    """Rows without repetitions. A video listed in two splits stays in the later of train, val, test: it is never both
    trained on and tested on.

    Raises:
        UserError: a video is listed with two classes.
    """
    kept: dict[str, Row[T]] = {}
    num_repeated, moved = 0, ""
    for row in rows:
        other = kept.get(row.key)
        if other is None:
            kept[row.key] = row
            continue
        if other.class_name != row.class_name:
            raise UserError(
                f"{row.where}: {row.key} is {row.class_name!r} here and {other.class_name!r} in {other.where}: keep one"
                " of the lines"
            )
        num_repeated += 1
        if other.split != row.split:
            moved = moved or f"{row.key} in {other.where} and {row.where}"
            if SPLITS.index(row.split) > SPLITS.index(other.split):
                kept[row.key] = row
    if num_repeated:
        log.warning("%d videos are listed more than once and are used once", num_repeated)
    if moved:
        log.warning(
            "videos that are listed in two splits are left out of the earlier of train, val, test (first: %s)",
            moved,
        )
    return list(kept.values())


def split_name(text: str, where: str) -> str:
    """train, val or test for what a list says; UserError for anything else."""
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise UserError(f"{where}: split {shown(text)}: use train, val or test")
    return split


def whole(text: str, where: str, column: str) -> int:
    """A whole number >= 0 of at most nine digits; UserError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UserError(f"{where}: {column} {shown(text)}: give a whole number, 0 or more")
    return int(text)


def seconds(text: str, where: str, column: str) -> float:
    """A number of seconds >= 0, to the microsecond; UserError for anything else, and for more than any video has."""
    found = _NUMBER.fullmatch(text)
    value_s = float(text) if found else math.nan
    if not 0 <= value_s <= MOST_SECONDS:  # false for NaN
        raise UserError(
            f"{where}: {column} {shown(text)}: give seconds from the start of the video, 0 to {MOST_SECONDS:g}, such"
            " as 12.5"
        )
    return round(value_s, 6) + 0.0  # a name holds microseconds; -0.0 is 0


def ordered(start_s: float, end_s: float, where: str) -> None:
    """UserError unless the part starts before it ends."""
    if end_s <= start_s:
        raise UserError(
            f"{where}: the part from {start_s:.12g} s to {end_s:.12g} s is empty: the end must come after the start"
        )
