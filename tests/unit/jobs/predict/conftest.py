"""A registry in a database file with one promoted version, shared by the tests of jobs.predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.promote.command import PromoteArgs, promote
from tests.support.finished_run import finished_run


@dataclasses.dataclass(frozen=True)
class Registry:
    """``models:/tiny/1`` and what it was made of."""

    run: Path
    videos: list[Path]


@pytest.fixture(scope="module")
def registry(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Version 1 of the model ``tiny``, registered by jobs.promote, with the alias champion."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("RECIPROCAL_HOME", str(folder / "home"))
        patch.chdir(folder)  # MLflow's own default for artifacts is the working directory
        run_uri = finished_run(folder / "run", tiny_set)
        assert promote(PromoteArgs(run_uri, name="tiny", num_views=2)) == 0
        raw = Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos"
        yield Registry(folder / "run", sorted(raw.rglob("*.mp4")))
