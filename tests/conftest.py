"""What all tests share."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import data_folder

# Set before anything imports torch or Ray: tests share two cores, and must never reach a user's own stack or cloud.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ENABLE_UINT8_METRICS", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else the tests beside them hold Ray's workers up for minutes
for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(name, None)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["RECIPROCAL_STACK"] = "off"  # tests of the stack take this back for a state folder of their own


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips; the test is skipped, and says so, where there are none."""
    folder = data_folder()
    if not (folder / "clips").is_dir():
        pytest.skip(
            f"real clips are not at {folder}: set RECIPROCAL_DATA to a folder that has clips/, ut_interaction/, odd/"
        )
    return folder


@pytest.fixture(autouse=True)
def _no_user_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Tests that do not start a stack of their own see none, and keep their state to themselves."""
    if not request.node.get_closest_marker("stack"):
        monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(autouse=True, scope="module")
def _no_ray_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file that leaves this process connected to a Ray breaks whichever file a pytest worker runs next, so that file
    is the one that fails.
    """
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail(f"{request.node.nodeid} leaves Ray running: its tests need ray.shutdown()")


@pytest.fixture(autouse=True)
def _no_log_handler_of_a_command() -> Iterator[None]:
    """A command that a test runs in this process sets up logging to the standard error of that moment, which is closed
    when the test ends, and levels that would hide from later tests what is logged.
    """
    levels = {name: logging.getLogger(name).level for name in ("", "jobs", "pipeline", "preprocessing", "mlflow")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for handler in [h for h in logging.root.handlers if type(h) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu`` or ``-m "gpu and ..."`` files without such tests are not imported: a machine with a GPU may lack
    what they need. Tests of decoders write videos with PyAV, and are left out where there is none.
    """
    if not re.match(r"gpu( and |$)", config.getoption("markexpr")):
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    if not any("mark.gpu" in file.read_text() for file in files):
        return True
    return True if collection_path.name == "data" and not _has_pyav() else None


def _has_pyav() -> bool:
    try:
        importlib.import_module("av")
    except ImportError:
        return False
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):  # keywords would hold the checkout's folder too
        import torch

        if not torch.cuda.is_available():
            if os.environ.get("RECIPROCAL_EXPECT_GPU") == "1":
                pytest.fail("this machine was promised to have a GPU, and torch sees none")
            pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a small stored data set: 4 classes, 5 + 2 + 2 clips each of 10 to 12 frames at short side 32, all
    modalities."""
    from pipeline.config.preprocess import StoredConfig
    from tests.support.synthetic_set import store_synthetic

    size = {"train": 5, "val": 2, "test": 2, "appearances": 2, "motions": 2, "min_frames": 10, "max_frames": 12}
    return store_synthetic(tmp_path_factory.mktemp("tiny"), "tiny", StoredConfig(short_side=32), 8, **size)
