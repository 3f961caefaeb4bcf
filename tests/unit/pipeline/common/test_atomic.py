"""The one atomic writer, on file systems with unnamed files and without; the kernel's own calls are the oracle."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from pipeline.common.atomic import atomic_file, atomic_path, write_atomically


@pytest.fixture(params=["unnamed", "named"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test once more as on a file system (NFS) that refuses O_TMPFILE."""
    real = os.open

    def refuses(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *args, **kwargs)

    if request.param == "named":
        monkeypatch.setattr(os, "open", refuses)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_target_is_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with atomic_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_a_block_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    for writer in (atomic_file, atomic_path):
        with pytest.raises(KeyboardInterrupt), writer(target):
            raise KeyboardInterrupt
    assert (names(tmp_path), target.read_bytes()) == (["x"], b"old")


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()  # no file can take a folder's place
    for write in (lambda: write_atomically(tmp_path / "x", b"new"), lambda: _write_by_name(tmp_path / "x")):
        with pytest.raises(OSError, match="directory"):
            write()
    assert names(tmp_path) == ["x"]


def _write_by_name(target: Path) -> None:
    with atomic_path(target) as name:
        name.write_bytes(b"new")


def test_modes_are_those_of_an_ordinary_file_or_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "private", b"", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_an_exclusive_write_never_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "token", b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "token", b"second", replace=False)
    assert (tmp_path / "token").read_bytes() == b"first"
    assert names(tmp_path) == ["token"]


def test_of_many_exclusive_writers_one_wins(tmp_path: Path) -> None:
    start, won = threading.Barrier(8), []

    def write(number: int) -> None:
        start.wait()
        try:
            write_atomically(tmp_path / "token", bytes([number]), replace=False)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes(won)] == [(tmp_path / "token").read_bytes()]
    assert names(tmp_path) == ["token"]


def test_a_file_in_the_making_has_a_hidden_name_only_where_it_needs_one(tmp_path: Path, file_system: str) -> None:
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        file_system = "named"
    (tmp_path / "in").mkdir()
    with atomic_file(tmp_path / "x", folder=tmp_path / "in", prefix="new-") as file:
        file.write(b"1")
        left = names(tmp_path / "in")
        assert (left == []) if file_system == "unnamed" else (len(left) == 1 and left[0].startswith("new-"))
    assert names(tmp_path / "in") == []
    assert (tmp_path / "x").read_bytes() == b"1"
