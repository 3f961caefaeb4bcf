"""MRST-Net's training from pictures to an evaluation, by the recipes themselves, made tiny by flags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import safetensors.torch
import torch
from torch import Tensor

from jobs.evaluate import command as evaluate_job
from jobs.preprocess import command as preprocess_job
from jobs.train import command as train_job
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.manifest import read_manifest
from pipeline.models import build_model
from pipeline.runs.folder import read_run
from pipeline.storage import Storage, open_storage
from tests.support.picture_folders import CLASSES as PICTURE_CLASSES
from tests.support.picture_folders import draw_pictures
from tests.support.stored_set import CLASSES, clips_of, store_manifest, store_shard
from tests.support.synthetic_set import store_synthetic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SHRUNK = [
    *("--model.blocks", "1", "1", "--model.mid", "3", "4", "--model.out", "5", "6", "--model.stem", "4"),
    *("--model.lstm", "5", "--clip.crop", "32", "--clip.resize", "32", "--data.batch-size", "4"),
    *("--data.decoder", "reference", "--optim.epochs", "2"),
    *("--run.num-workers", "1", "--run.cpus-per-worker", "1", "--run.use-gpu", "no"),
]
FEW_FRAMES = ["--model.num-steps", "4", "--clip.num-frames", "4"]


@pytest.fixture(scope="module", autouse=True)
def private_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        ray.init(address="local", num_cpus=1, include_dashboard=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20 training videos of four classes, RGB alone."""
    size = {"train": 5, "val": 1, "test": 1, "appearances": 2, "motions": 2, "min_frames": 5, "max_frames": 8}
    stored = StoredConfig(short_side=32, modalities=("rgb",))
    return store_synthetic(tmp_path_factory.mktemp("kinetics"), "kinetics", stored, 32, **size)


@pytest.fixture(scope="module")
def ucf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes that ``kinetics`` does not have."""
    folder = tmp_path_factory.mktemp("ucf")
    storage = open_storage(f"file://{folder}/set")
    name = "shard-000000"
    made = clips_of({f"train/{name}": 6, f"test/{name}": 3})
    store_manifest(
        storage,
        [store_shard(storage, folder, split, name, made[f"{split}/{name}"]) for split in ("train", "test")],
    )
    return storage.uri


def final(run: Storage) -> tuple[dict[str, Tensor], str]:
    """Weights of the final checkpoint, and the sha256 of their file."""
    data = run.read(f"{json.loads(run.read('result.json'))['checkpoint']}/model.safetensors")
    return safetensors.torch.load(data), hashlib.sha256(data).hexdigest()


def train(tmp_path: Path, recipe: str, data_uri: str, *flags: str) -> Storage:
    words = [recipe, "--data.uri", data_uri, "--run.output", f"file://{tmp_path}/runs", "--run.run-id", recipe]
    assert train_job.main([*words, *SHRUNK, *flags]) == 0
    run = open_storage(f"file://{tmp_path}/runs/{recipe}")
    assert read_run(run).train_config().recipe == recipe
    return run


def begun(run: Storage, num_classes: int) -> dict[str, Tensor]:
    """The weights that the run's seed gives where nothing is started from."""
    config = read_run(run).train_config()
    torch.manual_seed(config.run.seed)
    return build_model(config.model, num_classes=num_classes, crop=config.clip.crop).state_dict()


def moved(now: dict[str, Tensor], before: dict[str, Tensor], names: set[str]) -> float:
    """The farthest that any of these weights is from where it was."""
    return max((now[name] - before[name]).abs().max().item() for name in names)


def evaluate(run: Storage, split: str, num_videos: int, protocol: str, *flags: str) -> None:
    assert evaluate_job.main([run.uri, "--split", split, *flags]) == 0
    report = json.loads(run.read(f"evaluations/{split}_{protocol}.json"))
    assert report["num_videos"] == num_videos
    with np.load(Path(run.uri.removeprefix("file://")) / "evaluations" / f"{split}_{protocol}.npz") as found:
        assert len(found["keys"]) == num_videos


def test_pictures_twin_kinetics_fine_tuning_evaluation(
    kinetics: str, ucf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    source, pictures = draw_pictures(tmp_path / "imagenet", {"train": 4, "val": 1}), f"file://{tmp_path}/pictures"
    options = ["--format", "pictures", "--stored.modalities", "rgb", "--stored.short-side", "32"]
    assert preprocess_job.main([*options, "--source", str(source), "--out", pictures]) == 0
    assert read_manifest(open_storage(pictures)).classes == PICTURE_CLASSES

    twin = train(tmp_path, "mrst_imagenet_twin", pictures, "--optim.warmup-epochs", "1")
    learned, _ = final(twin)
    shared = {name for name in learned if not name.startswith("fc.")}
    weights = {name for name in shared if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved(learned, begun(twin, 3), weights) > 0
    evaluate(twin, "val", 3, "1x1")

    capsys.readouterr()
    flags = [*FEW_FRAMES, "--start-from", twin.uri]
    assert train_job.main(["mrst_t3_k400", "--data.uri", kinetics, *SHRUNK, *flags, "--dry-run"]) == 0
    assert "a 2D twin: temporal convolutions, gates, LSTM and classifier initialised" in capsys.readouterr().out
    pretrained = train(tmp_path, "mrst_t3_k400", kinetics, *flags)
    inflated, digest = final(pretrained)
    # 20 clips make 5 steps of 4 in each of 2 epochs; a step of Adam moves a weight by little more than its rate.
    most = 10 * 1e-4 * 1.5
    assert 0 < moved(inflated, learned, weights) < most
    new = {name for name in inflated if name not in shared and not name.endswith(("_mean", "_var", "_tracked"))}
    assert {name.split(".")[0] for name in new} >= {"stem", "stages", "lstm", "fc"}
    assert 0 < moved(inflated, begun(pretrained, 4), new) < most

    fine = train(tmp_path, "mrst_t4_ucf", ucf, *FEW_FRAMES, "--data.val-split=", "--start-from", pretrained.uri)
    tuned, _ = final(fine)
    assert read_manifest(open_storage(ucf)).classes == CLASSES
    assert tuned["fc.weight"].shape == (3, 5)
    config = read_run(fine).train_config()
    assert (config.start_from, config.start_digest) == (pretrained.uri, digest)
    classifier = {"fc.weight", "fc.bias"}
    slow = moved(tuned, inflated, (weights | new) - classifier)
    fast = moved(tuned, begun(fine, 3), classifier)
    assert 0 < slow < 1e-3  # SGD at 1e-5
    assert fast > 1e-5  # at 1e-3, from fresh weights
    assert fast > slow
    evaluate(fine, "test", 3, "2x1", "--num-views", "2")
