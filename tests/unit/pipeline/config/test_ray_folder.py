"""Where a Ray on this host keeps its files; the kernel is the judge of a socket's path."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.ray_local import forget_old_sessions, ray_folder
from pipeline.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def short_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as folder:
        yield Path(folder)


@pytest.mark.parametrize("long", [False, True])
def test_ray_sockets_fit_whatever_the_length_of_home(
    short_home: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(short_home / ("n" * 200)) if long else str(short_home))
    folder = ray_folder("r")
    try:
        assert folder.is_relative_to(short_home) != long
        folder.chmod(0o777)  # as Ray does
        assert ray_folder("r") == folder  # the same on the next start
        assert mode(folder.parent) == 0o700
        path = folder / "session_2026-12-31_23-59-59_999999_4194304" / "sockets" / "dash_TaskEventsHead"
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))  # the kernel is the judge
    finally:
        shutil.rmtree(folder.parent)


def test_somebody_elses_folder_in_tmp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / ("n" * 200)))
    private = ray_folder("r").parent
    try:
        private.chmod(0o777)
        with pytest.raises(UserError, match="private folder"):
            ray_folder("r")
    finally:
        shutil.rmtree(private)


def test_old_ray_sessions_are_forgotten_save_those_that_run(tmp_path: Path) -> None:
    gone = 1 << 30  # above any pid
    for day, pid in ((1, gone), (2, os.getpid()), (3, gone), (4, gone)):
        (tmp_path / f"session_2026-01-0{day}_x_{pid}" / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(f"session_2026-01-04_x_{gone}")
    forget_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"session_2026-01-02_x_{os.getpid()}",  # its process lives
        f"session_2026-01-03_x_{gone}",
        f"session_2026-01-04_x_{gone}",
        "session_latest",
    ]
