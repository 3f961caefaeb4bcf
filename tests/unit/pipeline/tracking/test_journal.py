"""The journal alone: what was logged before a flush is stored, in order, whatever the storage does meanwhile."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.storage import LocalStorage, open_storage
from pipeline.tracking import journal as journal_module
from pipeline.tracking.entries import Entry, number, plain_numbers
from pipeline.tracking.journal import RunJournal, read_unsent

NEVER_S = 3600.0  # between two writes of the thread: the test flushes


class Failing(LocalStorage):
    """Raises at every write while ``down``; counts the writes that were tried."""

    down = False
    tried = 0

    def write(self, path: str, data: bytes) -> None:
        self.tried += 1
        if self.down:
            raise StorageError("503")
        super().write(path, data)


@pytest.fixture
def run(tmp_path: Path) -> Failing:
    return Failing(str(tmp_path / "run"))


def points(run: LocalStorage, name: str = "loss") -> list[int]:
    return [entry.step for _, _, entry in read_unsent(run, {}) if name in entry.curve]


def test_what_was_logged_before_a_flush_is_stored_by_it(run: Failing) -> None:
    journal = RunJournal(run, NEVER_S)
    for step in range(5):
        journal.log_metrics({"loss": step / 3}, step)
        journal.flush()
    assert [(e.step, e.curve) for _, _, e in read_unsent(run, {})] == [(s, {"loss": s / 3}) for s in range(5)]


def test_a_storage_that_fails_costs_nothing_that_was_logged(run: Failing) -> None:
    journal = RunJournal(run, NEVER_S)
    journal.log_metrics({"loss": 0.0}, 0)
    run.down = True
    for step in (1, 2):
        with pytest.raises(StorageError):
            journal.flush()
        journal.log_metrics({"loss": 0.0}, step)
    run.down = False
    journal.flush()
    assert points(run) == [0, 1, 2]


def test_the_thread_writes_by_itself_and_again_after_a_failure(run: Failing) -> None:
    run.down = True
    journal = RunJournal(run, 0.01)
    journal.log_metrics({"loss": 0.0}, 7)
    until = time.monotonic() + 20
    while run.tried < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert run.tried >= 3
    assert points(run) == []
    run.down = False
    while not points(run) and time.monotonic() < until:
        time.sleep(0.01)
    assert points(run) == [7]
    journal.close()


def test_what_cannot_be_stored_at_the_end_is_counted_in_a_warning(
    run: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    run.down = True
    journal = RunJournal(run, NEVER_S)
    journal.log_metrics({"loss": 0.0}, 1)
    with caplog.at_level(logging.WARNING):
        journal.close()
    assert caplog.messages == [f"{run.uri}/journal cannot be written: 1 entry lost: 503"]


def test_full_segments_are_followed_by_others_and_are_not_written_again(
    run: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 300)
    journal = RunJournal(run, NEVER_S)
    for step in range(40):
        journal.log_metrics({"loss": 0.5}, step)
        journal.flush()
    segments = list(run.list("journal/"))
    assert len(segments) > 5
    assert all(run.size(path) < 300 + 100 for path in segments)
    assert points(run) == list(range(40))


def test_a_later_writer_comes_after_an_earlier_one(run: Failing) -> None:
    first, second = RunJournal(run, NEVER_S), RunJournal(run, NEVER_S)
    first.log_metrics({"loss": 0.0}, 1)
    first.flush()
    second.log_metrics({"loss": 0.0}, 2)
    second.flush()
    third = RunJournal(run, NEVER_S)
    third.log_metrics({"loss": 0.0}, 3)
    third.flush()
    assert points(run) == [1, 2, 3]


def test_reading_goes_on_where_it_ended(run: Failing) -> None:
    journal, sent, seen = RunJournal(run, NEVER_S), dict[str, int](), []
    for step in range(6):
        journal.log_metrics({"loss": 0.0}, step)
        if step % 2:
            journal.flush()
            for path, end, entry in read_unsent(run, sent):
                sent[path] = end
                seen.append(entry.step)
    assert seen == list(range(6))


def test_a_damaged_line_costs_itself_alone(run: Failing, caplog: pytest.LogCaptureFixture) -> None:
    journal = RunJournal(run, NEVER_S)
    for step in range(3):
        journal.log_metrics({"loss": 0.0}, step)
    journal.flush()
    (path,) = run.list("journal/")
    lines = run.read(path).splitlines(keepends=True)
    run.write(path, lines[0] + b"{" + lines[1][1:].replace(b":", b"\x00") + lines[2])
    with caplog.at_level(logging.WARNING):
        assert points(run) == [0, 2]
    assert f"{run.uri}/{path}" in caplog.text


@pytest.mark.parametrize("value", [0.1, -1e300, 5e-324, math.nan, math.inf, -math.inf])
def test_every_number_comes_back(value: float) -> None:
    line = Entry(step=3, curve=plain_numbers({"a/b": value})).to_line()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = number(Entry.from_line(line, "here").curve["a/b"])
    if math.isinf(value):  # MLflow keeps these as its largest number
        assert back == math.copysign(1.7976931348623157e308, value)
    else:
        assert back == value or (math.isnan(back) and math.isnan(value))


def test_events_are_lines_that_a_later_writer_adds_to(tmp_path: Path) -> None:
    run = open_storage(f"file://{tmp_path}")
    for ranks in (4, 2):
        journal = RunJournal(run, NEVER_S)
        journal.log_event({"ranks": ranks})
        journal.log_event({"ranks": ranks - 1})
        journal.close()
    lines = [json.loads(line) for line in run.read("events.jsonl").splitlines()]
    assert [line["ranks"] for line in lines] == [4, 3, 2, 1]
    assert all(line["at_ms"] > 1.6e12 for line in lines)
