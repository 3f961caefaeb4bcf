"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports torch or Ray: tests share two cores, and must never reach a user's own stack or cloud.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ENABLE_UINT8_METRICS", "0")
for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(name, None)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def data_folder() -> Path:
    """Folder of real clips and annotation files: RECIPROCAL_DATA, else ../shared/data beside the checkout."""
    return Path(os.environ.get("RECIPROCAL_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips; the test is skipped, and says so, where there are none."""
    folder = data_folder()
    if not (folder / "clips").is_dir():
        pytest.skip(f"real clips are not at {folder}: set RECIPROCAL_DATA to a folder that has clips/, ut_interaction/, odd/")
    return folder


@pytest.fixture(autouse=True)
def _no_user_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    """Tests that do not start a stack of their own see none, and keep their state to themselves."""
    if "stack" not in request.keywords:
        monkeypatch.setenv("RECIPROCAL_STACK", "off")
        monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "gpu" in item.keywords:
        import torch

        if not torch.cuda.is_available():
            if os.environ.get("RECIPROCAL_EXPECT_GPU") == "1":
                pytest.fail("this machine was promised to have a GPU, and torch sees none")
            pytest.skip("no GPU here")
