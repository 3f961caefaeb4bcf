"""Addresses of MLflow pages, against MLflow's own store."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from infra.records import write_stack
from pipeline.config.stack import Stack
from pipeline.tracking.pages import find_or_make, page_record
from pipeline.tracking.runs import address, run_page

LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def test_only_the_local_stack_gets_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path))
    monkeypatch.delenv("RECIPROCAL_STACK")
    for name in LOGIN:
        monkeypatch.delenv(name, raising=False)
    values = {field.name: "x" for field in dataclasses.fields(Stack)}
    write_stack(Stack(**values | {"mlflow_uri": "http://127.0.0.1:5", "mlflow_user": "u", "mlflow_password": "p"}))
    assert address() == "http://127.0.0.1:5"
    assert [os.environ.get(name) for name in LOGIN] == ["u", "p"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    assert address() == "https://mlflow.example.com"
    assert [os.environ.get(name) for name in LOGIN] == [None, None]
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of that server")
    address()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "of that server"


def test_a_page_that_another_server_has_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path))
    known = find_or_make(page_record("reciprocal", "r", {}, {})).info.run_id
    assert run_page(known).endswith(f"/runs/{known}")
    unknown = "0" * 32
    assert f"has no run {unknown}; set MLFLOW_TRACKING_URI" in run_page(unknown)
