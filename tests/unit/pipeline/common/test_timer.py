"""The stage timer adds up what it measured, whatever happens in the block."""

from __future__ import annotations

import dataclasses
import time

import pytest

from pipeline.common.timer import StageTimer


@dataclasses.dataclass
class Times(StageTimer):
    read_s: float = 0.0
    write_s: float = 0.0
    files: int = 0


def test_blocks_add_up_also_when_they_raise() -> None:
    times = Times()

    def fails() -> None:
        with times.measure("read_s"):
            time.sleep(0.02)
            raise KeyError

    began_s = time.perf_counter()
    with pytest.raises(KeyError):
        fails()
    with times.measure("read_s"):
        time.sleep(0.02)
    assert 0.04 <= times.read_s <= time.perf_counter() - began_s
    assert (times.write_s, times.files) == (0.0, 0)


def test_an_unknown_stage_is_refused_before_the_block_runs() -> None:
    with pytest.raises(AttributeError, match="red_s"), Times().measure("red_s"):
        pytest.fail("the block ran")


def test_sums_and_differences_are_field_by_field_and_of_the_same_class() -> None:
    assert Times(1.0, 2.0, 3) + Times(0.5, 0.25, 1) == Times(1.5, 2.25, 4)
    assert Times(1.0, 2.0, 3) - Times(0.5, 0.25, 1) == Times(0.5, 1.75, 2)
