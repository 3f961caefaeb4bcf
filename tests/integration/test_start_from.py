"""Fine-tuning from a finished run, by real trainings on a private Ray and files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import safetensors.torch
import torch
from torch import Tensor

from jobs.train import command as train_job
from jobs.train import prepare as prepare_module
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.dataset.manifest import read_manifest
from pipeline.models import build_model
from pipeline.runs.start_weights import StartWeights
from pipeline.storage import Storage, open_storage
from tests.support.stored_set import CLASSES, clips_of, store_manifest, store_shard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def private_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # Of every test without a stack: workers inherit this process's environment when Ray starts.
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        ray.init(address="local", num_cpus=1, include_dashboard=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A set of other classes than ``tiny_set``'s four."""
    folder = tmp_path_factory.mktemp("three")
    storage = open_storage(f"file://{folder}/set")
    clips = clips_of({"train/shard-000000": 3})
    store_manifest(storage, [store_shard(storage, folder, "train", "shard-000000", clips["train/shard-000000"])])
    return storage.uri


def config(data_uri: str, run_id: str, output: Path, lr: float, **fields: str) -> TrainConfig:
    return TrainConfig(
        model=MRSTConfig(blocks=(1, 1), mid=(3, 4), out=(5, 6), stem=4, lstm=5, num_steps=4, dropout=0.0),
        clip=ClipConfig(num_frames=4, crop=32, resize=32),
        data=DataConfig(uri=data_uri, batch_size=2, val_split="", decoder="reference"),
        optim=OptimConfig(lr=lr, backbone_lr=lr, momentum=0.0, epochs=1),
        # Without moving statistics, and at a learning rate that no weight can feel, a run ends with the weights it
        # began with.
        run=RunConfig(run_id=run_id, output=f"file://{output}", use_gpu="no", freeze_batchnorm=lr < 1e-20),
        **fields,
    )


def result(run: Storage) -> str:
    return json.loads(run.read("result.json"))["checkpoint"]


def weights(run: Storage) -> dict[str, Tensor]:
    return safetensors.torch.load(run.read(f"{result(run)}/model.safetensors"))


def test_a_run_starts_from_another_s_weights(
    private_ray: None, tiny_set: str, three_classes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch; then, at a learning rate of 1e-30, from it with other classes; then on from a checkpoint."""
    torch.set_num_threads(1)
    first, other = (open_storage(f"file://{tmp_path}/{name}") for name in ("first", "other"))
    assert train_job.train(config(tiny_set, "first", tmp_path, 1e-2)) == 0
    learned = weights(first)
    torch.manual_seed(0)
    begun = build_model(config(tiny_set, "first", tmp_path, 1e-2).model, num_classes=4, crop=32).state_dict()
    assert not torch.equal(learned["stem.spatial.weight"], begun["stem.spatial.weight"])

    fine = config(three_classes, "other", tmp_path, 1e-30, start_from=first.uri)
    assert train_job.train(fine) == 0
    assert read_manifest(open_storage(three_classes)).classes == CLASSES
    torch.manual_seed(fine.run.seed)
    fresh = build_model(fine.model, num_classes=3, crop=32).state_dict()
    tuned = weights(other)
    assert all(torch.equal(tuned[name], (fresh if name.startswith("fc.") else learned)[name]) for name in learned)

    state = json.loads(other.read(f"{result(other)}/state.json"))
    assert state["config"]["start_from"] == first.uri
    assert (
        state["config"]["start_digest"] == hashlib.sha256(first.read(f"{result(first)}/model.safetensors")).hexdigest()
    )

    # What has a checkpoint needs no other weights: workers that tried to read them would fail here.
    found = prepare_module.find_start

    def elsewhere(*args: object) -> tuple[TrainConfig, StartWeights]:
        made, start = found(*args)  # pyright: ignore[reportArgumentType]
        assert start is not None
        return made, dataclasses.replace(start, folder=f"file://{tmp_path}/nowhere")

    monkeypatch.setattr(prepare_module, "find_start", elsewhere)
    other.delete("result.json")
    assert train_job.train(fine) == 0
    assert all(torch.equal(weights(other)[name], tuned[name]) for name in tuned)
