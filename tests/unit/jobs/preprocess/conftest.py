"""Shards built in the test's own process, of a few synthetic videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.preprocess import command
from pipeline.storage import Storage, lease, open_storage
from preprocessing.synthetic.generate import SyntheticConfig, generate
from tests.support.preprocess_here import build_here


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    generate(SyntheticConfig(out=folder, train=2, val=1, test=1, appearances=2, motions=1, min_frames=6, max_frames=8))
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Shards are built here, without Ray and MLflow; what the returned list holds is called after each build."""
    afterwards: list[Callable[[], object]] = []

    def build_all(*arguments) -> None:
        build_here(*arguments)
        for call in afterwards:
            call()

    monkeypatch.setattr(command, "build_all", build_all)
    monkeypatch.setattr(lease, "TIMING", lease.Timing(beat_s=0.2, look_s=0.05))
    return afterwards


@pytest.fixture
def out(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/out")
