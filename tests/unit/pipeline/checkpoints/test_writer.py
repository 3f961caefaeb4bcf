"""Checkpoints in the background: one at a time, and no error is lost."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.errors import StorageError, UserError
from pipeline.storage import LocalStorage


class GatedStore(CheckpointStore):
    """Stores when it is let to; ``failures`` are raised instead, one a time."""

    def __init__(self, run: LocalStorage) -> None:
        super().__init__(run)
        self.gate, self.begun, self.failures = threading.Event(), threading.Event(), []

    def save(self, folder: Path, position: Position, metrics: Mapping[str, float]) -> str:
        self.begun.set()
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop()
        return super().save(folder, position, metrics)


@pytest.fixture
def store(tmp_path: Path) -> GatedStore:
    return GatedStore(LocalStorage(str(tmp_path / "run")))


def at(step: int) -> Position:
    return Position(global_step=step)


def one_file(folder: Path) -> None:
    (folder / "a").write_bytes(b"1")


def test_the_caller_goes_on_while_a_checkpoint_travels_and_a_second_one_waits(store: GatedStore) -> None:
    writer, second = CheckpointWriter(store), threading.Event()
    writer.start(at(1), {}, one_file)
    assert store.begun.wait(20)
    assert store.entries() == []
    thread = threading.Thread(target=lambda: (writer.start(at(2), {}, one_file), second.set()))
    thread.start()
    assert not second.wait(0.2)
    store.gate.set()
    thread.join(20)
    writer.wait()
    assert [entry.name for entry in store.entries()] == ["checkpoint_000000002", "checkpoint_000000001"]
    assert writer.stored == "checkpoint_000000002"


def test_an_error_comes_with_the_next_checkpoint_or_at_the_end_and_once(store: GatedStore) -> None:
    writer = CheckpointWriter(store)
    store.gate.set()
    for later in (lambda: writer.start(at(2), {}, one_file), writer.wait):
        store.failures.append(StorageError("503 for good"))
        writer.start(at(1), {}, one_file)
        with pytest.raises(StorageError, match="503 for good"):
            later()
    writer.start(at(3), {}, one_file)
    writer.wait()
    assert [entry.name for entry in store.entries()] == ["checkpoint_000000003"]


def test_after_another_error_one_of_the_checkpoint_is_a_line(
    store: GatedStore, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(store)
    store.gate.set()
    store.failures.append(StorageError("503 for good"))
    writer.start(at(1), {}, one_file)
    with caplog.at_level(logging.WARNING):
        writer.settle()
    assert [record.getMessage() for record in caplog.records] == [
        "the last checkpoint could not be stored: StorageError: 503 for good"
    ]


def test_a_full_disk_is_one_line_that_names_the_folder_and_the_fix(
    store: GatedStore, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = CheckpointWriter(store)
    store.gate.set()

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_for_torch(folder: Path) -> None:
        raise RuntimeError(
            "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file\nframe 0"
        )

    for write in (full, full_for_torch):
        writer.start(at(1), {}, write)
        with pytest.raises(UserError, match=rf"cannot be written to {tmp_path} .*free some space, or set TMPDIR") as e:
            writer.wait()
        assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("reciprocal-*"))
