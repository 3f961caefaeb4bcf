"""A training and the preprocessing of one shard whose storage fails or is cut, or whose process is killed, at one of
their storage requests end with the same command, with the same bytes.

A sample of the requests; all of them: ``python tests/integration/exhaustive_faults.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.exhaustive_faults import Bench, started_bench
from tests.support.fault_commands import ShardCase, TrainingCase
from tests.support.nth_request import WAYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with started_bench() as made:
        yield made


@pytest.mark.parametrize(("kind", "every"), [(TrainingCase, 40), (ShardCase, 13)])
def test_the_same_command_ends_it_with_the_same_bytes(
    bench: Bench, kind: type[TrainingCase] | type[ShardCase], every: int
) -> None:
    rows = list(bench.rows(kind, every))
    print(*rows, sep="\n")
    assert [row.way for row in rows] == list(WAYS)
    assert [problem for row in rows for problem in row.problems] == []
    of = {row.way: row for row in rows}
    assert all(row.well == row.tried >= 2 for row in rows)
    # Each fault has met the command: only a cut connection is passed over without a second run.
    assert of["cut"].at_once == of["cut"].tried
    assert [of[way].at_once for way in WAYS if way.startswith("killed")] == [0, 0]
