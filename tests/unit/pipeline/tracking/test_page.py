"""How a page speaks of a tracking server that cannot be reached."""

from __future__ import annotations

import socket

import mlflow
import pytest

from pipeline.tracking.once import asked_once
from pipeline.tracking.page import problem_of


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
