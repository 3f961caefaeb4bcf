"""Addresses of MLflow pages, against MLflow's own store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.runs import run_page, start_run


def test_a_page_that_another_server_has_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path))
    known = start_run("reciprocal", "r", {}, {})
    assert run_page(known).endswith(f"/runs/{known}")
    unknown = "0" * 32
    assert f"has no run {unknown}; set MLFLOW_TRACKING_URI" in run_page(unknown)
