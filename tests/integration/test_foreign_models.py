"""Somebody who reaches MLflow over HTTP, and nothing else, registers code of his own and gives it the alias."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.predict.command import main
from jobs.promote.command import PromoteArgs, promote
from pipeline.errors import UserError
from tests.support.finished_run import finished_run
from tests.support.foreign_models import data_of, evil_model, register_as_anybody

pytestmark = [
    pytest.mark.long,
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*(input example|type hints)"),
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an MLflow server that passes artifacts through itself, as the local stack's does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", f"file://{tmp_path}/artifacts"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 150
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.3)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it stores nothing that anybody needs
        process.wait(30)


@pytest.mark.timeout(300)
def test_his_code_does_not_run(server: str, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_uri = finished_run(tmp_path / "run", tiny_set)
    assert promote(PromoteArgs(run_uri, name="tiny", num_views=2)) == 0
    video = str(next((Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4")))
    assert main(["models:/tiny@champion", video]) == 0
    honest = [line for line in capsys.readouterr().out.splitlines() if "│" in line]

    marker = tmp_path / "it ran"
    register_as_anybody("tiny", evil_model(data_of("models:/tiny/1", tmp_path / "data"), tmp_path, marker))
    assert main(["models:/tiny@champion", video]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "│" in line] == honest
    with pytest.raises(UserError, match="no digest of its code is known"):
        main(["models:/tiny@champion", video, "--code", "carried"])
    assert not marker.exists()
