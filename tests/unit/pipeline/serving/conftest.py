"""A packed predictor, shared by the tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.models import build_model
from pipeline.serving.predictor import pack
from pipeline.storage import open_storage


@pytest.fixture(scope="module")
def packed(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig, Manifest]:
    """A predictor's folder with random weights that answer differently for different videos."""
    torch.set_num_threads(1)
    manifest = read_manifest(open_storage(tiny_set))
    config = TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4, modalities=("rgb", "flow")),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=tiny_set, batch_size=4, decoder="reference"),
    )
    torch.manual_seed(3)
    model = build_model(config.model, num_classes=4, crop=32)
    with torch.no_grad():  # random weights hardly react to their input; larger classifiers do
        for _name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(60)
    folder = tmp_path_factory.mktemp("packed")
    safetensors.torch.save_file(model.state_dict(), folder / "raw.safetensors")
    state = {
        "config": as_dict(config),
        "classes": list(manifest.classes),
        "stored": manifest.parameters,
        "manifest_digest": manifest.digest,
        "run_id": "r",
    }
    pack(folder, folder / "raw.safetensors", state, num_views=2)
    return folder, config, manifest
