"""The folder of a user's state is that user's alone, whichever command makes it first."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import records
from infra.s3_gateway import load_credentials
from pipeline.config.stack import Stack, home, ray_token_file, state_folder
from pipeline.errors import UserError
from pipeline.tracking import runs
from preprocessing.sources.catalogue import cache_file, cached
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder that nobody has made, and a umask that takes nothing away."""
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = os.umask(0)
    yield tmp_path / "state"
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _lock() -> None:
    with records.locked():
        pass


def _record_stack() -> None:
    records.write_stack(Stack(**{field.name: "x" for field in dataclasses.fields(Stack)}))


def _traceback() -> None:
    code = "from pipeline.common.cli import run_main\ndef main():\n    raise RuntimeError('broken')\nrun_main(main)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "whole traceback" in done.stderr, done.stderr


def _credentials() -> None:
    code = "from jobs.cluster.environment import worker_environment\nworker_environment(one_host=True)"
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, timeout=120)


FIRST: dict[str, Callable[[], object]] = {
    "lock": _lock,
    "stack record": _record_stack,
    "keys of S3": load_credentials,
    "Ray's token": ray_token_file,
    "database without a server": runs.address,
    "cache of archives": lambda: cached(cache_file("x", ending="db"), lambda path: path.write_text("x")),
    "traceback of a command": _traceback,
    "credentials of a driver": _credentials,
}


@pytest.mark.parametrize("first", FIRST)
def test_whoever_makes_it_first_makes_it_private(first: str, new_home: Path) -> None:
    FIRST[first]()
    assert mode(new_home) == 0o700
    ours = [path for path in new_home.rglob("*") if path.suffix != ".lock"]  # those are empty
    assert {str(path): oct(mode(path)) for path in ours if mode(path) & 0o077} == {}


def test_a_folder_that_was_open_is_closed_with_its_database(new_home: Path) -> None:
    (new_home / "offline").mkdir(parents=True)
    (new_home / "offline" / "mlflow.db").touch()
    assert (mode(new_home), mode(new_home / "offline" / "mlflow.db")) == (0o777, 0o666)
    runs.address()
    assert (mode(new_home), mode(new_home / "offline"), mode(new_home / "offline" / "mlflow.db")) == (
        0o700,
        0o700,
        0o600,
    )


def test_another_users_folder_is_refused(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_home.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: new_home.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to another user: set RECIPROCAL_HOME"):
        state_folder()
    assert mode(home()) == 0o777  # and not touched
