"""A packed predictor, shared by the tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.serving.predictor import pack
from pipeline.storage import open_storage
from tests.support.finished_run import small_crn, small_state


@pytest.fixture(scope="module")
def packed(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig, Manifest]:
    """A predictor's folder with random weights that answer differently for different videos."""
    config, weights = small_crn(tiny_set)
    folder = tmp_path_factory.mktemp("packed")
    safetensors.torch.save_file(weights, folder / "raw.safetensors")
    pack(folder, folder / "raw.safetensors", small_state(tiny_set, config), num_views=2)
    return folder, config, read_manifest(open_storage(tiny_set))
