"""The stage timer: seconds spent in each stage of some work, and counts that belong to them.

@dataclasses.dataclass
class Times(StageTimer):
    decode_s: float = 0.0
    clips: int = 0

times = Times()
with times.measure("decode_s"):
    ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import TypeVar

_T = TypeVar("_T", bound="StageTimer")


@dataclasses.dataclass
class StageTimer:
    """Base of dataclasses whose fields are all numbers: seconds (``*_s``) to measure, counts to add to.

    A field must be measured from one thread at a time; different fields may be measured from different threads.
    """

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a with-block, in seconds, to the field ``stage``, also where the block raises.

        Raises:
            AttributeError: there is no such field; the block is not run.
        """
        getattr(self, stage)
        start_s = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - start_s)

    def __add__(self: _T, other: _T) -> _T:
        names = [f.name for f in dataclasses.fields(self)]
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __sub__(self: _T, other: _T) -> _T:
        names = [f.name for f in dataclasses.fields(self)]
        return type(self)(**{name: getattr(self, name) - getattr(other, name) for name in names})
