"""Raw file to probabilities: must be what evaluation gives for the same video once it is stored."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.config.base import as_dict
from pipeline.config.train import TrainConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import Manifest, read_records
from pipeline.errors import UserError
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.models import build_model
from pipeline.serving.predictor import CARD, WEIGHTS, Predictor, load_predictor, pack
from pipeline.storage import open_storage
from tests.support.paths import ROOT


def raw_video(tiny_set: str, source: str) -> bytes:
    return (Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos" / source).read_bytes()


@pytest.mark.parametrize(
    ("decoder", "bound"),
    [
        ("reference", 1e-6),  # the predictor's own decoder: the same pictures, so the same numbers
        ("ffmpeg", 2e-3),  # kernels in another order of operations, and crops in 8 bits
        ("dali", 2e-2),  # another resize
    ],
)
def test_a_raw_video_gives_the_probabilities_that_evaluation_gives_for_the_stored_one(
    packed: tuple[Path, TrainConfig, Manifest], tiny_set: str, decoder: Any, bound: float
) -> None:
    folder, config, manifest = packed
    predictor = load_predictor(folder)
    storage = open_storage(tiny_set)
    with make_loader(
        storage,
        manifest,
        "test",
        data=dataclasses.replace(config.data, decoder=decoder),
        clip=config.clip,
        modalities=("rgb", "flow"),
        train=False,
        seed=0,
        num_views=2,
    ) as loader:
        records = [sample for record in read_records(storage, manifest, "test") for sample in record.samples]
        stored = join_parts(
            [predict_part(predictor.model, loader.iter_epoch(0), device=torch.device("cpu"))],
            {r.key: r.label for r in records},
        )
    fused = dict(zip(stored.keys, stored.streams["fused"], strict=True))
    answers = {r.key: predictor.answer(raw_video(tiny_set, r.source)) for r in records}
    differences = [np.abs(answer.probabilities_N - fused[key]).max() for key, answer in answers.items()]
    spread = np.std(np.stack(list(fused.values())), axis=0).max()
    print(f"raw against stored: largest difference {max(differences):.2g}, videos differ by {spread:.4f}")
    assert spread > 0.02, "the model answers the same for all videos: this test would see nothing"
    assert max(differences) < bound
    assert all(answer.exact for answer in answers.values())


def test_answers_are_ranked_probabilities(packed: tuple[Path, TrainConfig, Manifest], tiny_set: str) -> None:
    predictor = Predictor(packed[0])
    source = next(p for p in (Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4"))
    ((labels, probabilities),) = predictor([source.read_bytes()])
    assert sorted(labels) == sorted(packed[2].classes)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_a_file_that_is_no_video_is_named(packed: tuple[Path, TrainConfig, Manifest]) -> None:
    with pytest.raises(UserError, match="video 0: not_video"):
        Predictor(packed[0])([b"<html>not found</html>" * 50])
    with pytest.raises(UserError, match="video 0: empty"):
        Predictor(packed[0])([b""])


@pytest.mark.parametrize("motion", ["diff", "diff-online"])
def test_diff_models_predict_too(
    packed: tuple[Path, TrainConfig, Manifest], tiny_set: str, tmp_path: Path, motion
) -> None:
    _, config, manifest = packed
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=("rgb", motion)))
    model = build_model(config.model, num_classes=4, crop=32)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "raw.safetensors")
    pack(
        tmp_path,
        tmp_path / "raw.safetensors",
        {
            "config": as_dict(config),
            "classes": list(manifest.classes),
            "stored": manifest.parameters,
            "manifest_digest": "",
            "run_id": "",
        },
        1,
    )
    source = next(p for p in (Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4"))
    assert Predictor(tmp_path).answer(source.read_bytes()).probabilities_N.sum() == pytest.approx(1, abs=1e-6)


def test_three_crops_are_those_of_evaluation(
    packed: tuple[Path, TrainConfig, Manifest], tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With diff-online, whose inputs on both roads come from RGB frames; the two differ by VP9 alone."""
    _, config, manifest = packed
    config = dataclasses.replace(
        config,
        clip=dataclasses.replace(config.clip, resize=40),
        model=dataclasses.replace(config.model, modalities=("rgb", "diff-online")),
    )
    model = build_model(config.model, num_classes=4, crop=32)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "raw.safetensors")
    state = {
        "config": as_dict(config),
        "classes": list(manifest.classes),
        "stored": manifest.parameters,
        "manifest_digest": "",
        "run_id": "",
    }
    pack(tmp_path, tmp_path / "raw.safetensors", state, num_views=2, num_crops=3)
    predictor, seen = load_predictor(tmp_path), []
    monkeypatch.setattr(
        "pipeline.serving.predictor.predict_part",
        lambda model, batches, **rest: seen.extend(batches) or predict_part(model, batches, **rest),
    )
    with make_loader(
        open_storage(tiny_set),
        manifest,
        "test",
        data=config.data,
        clip=config.clip,
        modalities=config.model.modalities,
        train=False,
        seed=0,
        num_views=2,
        num_crops=3,
    ) as loader:
        stored = next(iter(loader.iter_epoch(0)))
        source = read_records(open_storage(tiny_set), manifest, "test")[0].samples[0].source
    predictor.answer(raw_video(tiny_set, source))
    for name, x in seen[0].inputs.items():
        assert x.shape == (6, *stored.inputs[name].shape[1:])
        rows = (x[:, None] - stored.inputs[name][None, :6]).abs().mean((2, 3, 4, 5))
        assert (rows.argmin(1) == torch.arange(6)).all(), f"{name}: views or crops are not in evaluation's order"


def test_a_model_packed_before_crops_takes_one(packed: tuple[Path, TrainConfig, Manifest], tmp_path: Path) -> None:
    card = json.loads((packed[0] / CARD).read_text())
    del card["num_crops"]
    (tmp_path / CARD).write_text(json.dumps(card))
    (tmp_path / WEIGHTS).write_bytes((packed[0] / WEIGHTS).read_bytes())
    assert Predictor(tmp_path).num_crops == 1


@pytest.mark.slow
def test_prediction_needs_neither_dali_nor_ray_nor_storage(packed: tuple[Path, TrainConfig, Manifest]) -> None:
    code = (
        "import sys\nfor name in ('nvidia', 'ray', 'boto3', 'webdataset', 'mlflow', 'tyro', 'matplotlib'):"
        " sys.modules[name] = None\nfrom pathlib import Path\nfrom pipeline.serving.predictor import"
        f" load_predictor\nprint(load_predictor(Path({str(packed[0])!r})).num_views)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.stdout.strip() == "2", done.stderr


def test_the_folder_is_two_plain_files(packed: tuple[Path, TrainConfig, Manifest]) -> None:
    assert json.loads((packed[0] / CARD).read_text())["num_views"] == 2
    assert safetensors.torch.load_file(packed[0] / WEIGHTS)
