"""Scratch folders of living, finished and killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.storage.scratch import remove_abandoned, scratch_folder
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_it_is_there_and_then_it_is_not(tmp_path: Path) -> None:
    with scratch_folder() as folder, scratch_folder() as other:
        assert folder.parent == tmp_path
        assert folder != other
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "x").write_text("1")
        assert remove_abandoned() == 0
        assert (folder / "x").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pipeline.storage.scratch import scratch_folder\nwith scratch_folder() as f:\n  (f /"
        " 'x').write_text('1')\n  print(f, flush=True)\n  time.sleep(60)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        folders = [Path(child.stdout.readline().strip()) for child in children if child.stdout]
        assert all((f / "x").exists() for f in folders)
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        assert (folders[0] / "x").exists(), "a killed process's folder is not removed at once"
        with scratch_folder():
            assert not folders[0].exists()
            assert (folders[1] / "x").exists()
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert remove_abandoned() == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_in_the_making_and_foreign_things_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "reciprocal-new-a").mkdir()
    (tmp_path / "reciprocal-new-b").mkdir()
    os.utime(tmp_path / "reciprocal-new-b", (0, time.time() - 7200))
    (tmp_path / "other").mkdir()
    (tmp_path / "reciprocal-scratch-file").write_text("not a folder")
    (tmp_path / "reciprocal-scratch-link").symlink_to(tmp_path / "other")
    assert remove_abandoned() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "other",
        "reciprocal-new-a",
        "reciprocal-scratch-file",
        "reciprocal-scratch-link",
    ]


def test_it_goes_with_a_process_whose_thread_never_leaves_the_block(tmp_path: Path) -> None:
    code = """
import threading, time
from pipeline.storage.scratch import scratch_folder
inside = threading.Event()
def work():
    with scratch_folder() as folder:
        (folder / "file").touch()
        inside.set()
        time.sleep(60)
threading.Thread(target=work, daemon=True).start()
inside.wait()
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
