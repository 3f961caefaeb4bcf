"""How a page speaks of a tracking server that cannot be reached."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import StorageSetupError
from pipeline.storage import open_storage
from pipeline.tracking import page as page_module
from pipeline.tracking.once import asked_once
from pipeline.tracking.page import RunPage, problem_of
from pipeline.tracking.pages import page_record


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_cannot_be_reached_is_described_in_few_words(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # and never answers
            server.listen()
        asked = mlflow.MlflowClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        with asked_once(), pytest.raises(mlflow.MlflowException) as caught:
            asked.get_run("0" * 32)
    assert problem_of(caught.value) == ("no answer in time" if listens else "nothing listens there")


def test_other_errors_keep_their_words() -> None:
    assert problem_of(mlflow.MlflowException("the disk is full\nmore")) == "MlflowException: the disk is full"


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (StorageSetupError("the credentials have expired"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ConnectionError("refused"), True),
    ],
)
def test_the_end_of_a_command_waits_for_what_may_pass_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, waits: bool
) -> None:
    class Refused:
        def __init__(self, _: object) -> None:
            raise error

    monkeypatch.setattr(page_module, "Sender", Refused)
    page = RunPage(open_storage(f"file://{tmp_path}/run"), page_record("reciprocal", "r", {}, {}))
    page.log_metrics({"loss": 1.0}, 1)
    start_s = time.monotonic()
    assert not page.finish("FAILED", wait_s=3.0)
    assert (time.monotonic() - start_s > 2.9) == waits
