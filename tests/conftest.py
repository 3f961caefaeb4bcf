"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import data_folder

# Set before anything imports torch or Ray: tests share two cores, and must never reach a user's own stack or cloud.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ENABLE_UINT8_METRICS", "0")
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
    if "stack" not in request.keywords:
        monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "gpu" in item.keywords:
        import torch

        if not torch.cuda.is_available():
            if os.environ.get("RECIPROCAL_EXPECT_GPU") == "1":
                pytest.fail("this machine was promised to have a GPU, and torch sees none")
            pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a small stored data set: 4 classes, 5 + 2 + 2 clips each of 10 to 12 frames at short side 32, all
    modalities.
    """
    from pipeline.config.base import as_dict
    from pipeline.config.preprocess import StoredConfig
    from pipeline.dataset.manifest import MANIFEST, Manifest, entry_of
    from pipeline.storage import open_storage
    from preprocessing.annotations import read_ucf101
    from preprocessing.shard.build import Recipe, build_shard
    from preprocessing.shard.plan import plan_shards
    from preprocessing.sources import open_sources
    from preprocessing.synthetic.generate import SyntheticConfig, generate

    base = tmp_path_factory.mktemp("tiny")
    generate(
        SyntheticConfig(
            out=base / "raw", train=5, val=2, test=2, appearances=2, motions=2, min_frames=10, max_frames=12
        )
    )
    stored, storage = StoredConfig(short_side=32), open_storage(f"file://{base}/set")
    annotations = read_ucf101(base / "raw")
    store, recipe = open_sources(str(base / "raw" / "videos")), Recipe.of(annotations.classes, stored)
    plans = plan_shards(annotations, store.sizes({s.path for s in annotations.sources}), 8)
    records = [build_shard(p, store=store, recipe=recipe, storage=storage) for p in plans]
    manifest = Manifest(
        dataset="tiny",
        classes=annotations.classes,
        modalities=stored.modalities,
        parameters=as_dict(stored),
        parameter_hash=recipe.parameter_hash,
        code_version="test",
        shards=tuple(entry_of(r) for r in records),
        flow=recipe.flow,
    )
    storage.write(MANIFEST, manifest.to_json())
    return storage.uri
