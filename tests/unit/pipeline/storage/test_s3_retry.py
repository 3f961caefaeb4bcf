"""What a process says of a server that is away, with a clock that does not wait."""

from __future__ import annotations

import logging
import types

import pytest

from pipeline.storage import s3_retry
from pipeline.storage.s3_retry import Deadline, with_retries


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stands in for ``time``: a pause passes at once, and is the longest of its range: 0.1 s, 0.2 s, ... up to 5 s."""
    found = types.SimpleNamespace(now_s=1000.0)
    found.monotonic = lambda: found.now_s
    found.sleep = lambda seconds: setattr(found, "now_s", found.now_s + seconds)
    monkeypatch.setattr(s3_retry, "time", found)
    monkeypatch.setattr(s3_retry, "_JITTER", types.SimpleNamespace(uniform=lambda low, high: high))
    monkeypatch.setattr(s3_retry, "_said_s", -float("inf"))
    return found


def ask(clock: types.SimpleNamespace, path: str, back_at_s: float) -> None:
    def attempt(_: Deadline) -> None:
        if clock.now_s < back_at_s:
            raise ConnectionError("no answer")

    with_retries(f"s3://bucket/{path}", attempt, Deadline(120.0))


def test_an_outage_is_one_line_a_process_however_many_requests_it_holds_up(
    clock: types.SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):  # as the threads of a loader, one after another
        clock.now_s = 1000.0 + number
        ask(clock, f"shard-{number}", clock.now_s + 8.0)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["s3://bucket/shard-0: no answer"]
    clock.now_s = 1100.0
    ask(clock, "later", 1108.0)
    assert "s3://bucket/later: no answer; trying again for up to" in caplog.records[-1].getMessage()


def test_trouble_that_is_soon_over_is_worth_no_line(
    clock: types.SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ask(clock, "a", 1003.0)
    assert caplog.records == []
