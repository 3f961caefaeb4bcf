"""A small CRN with random weights, and a finished run of it as jobs.train and jobs.evaluate would leave it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import TrainConfig
from pipeline.dataset.manifest import read_manifest
from pipeline.evaluation.report import EvalReport, report_path
from pipeline.models import build_model
from pipeline.runs.folder import RESULT, RUN, RunRecord
from pipeline.storage import open_storage
from pipeline.tracking.pages import find_or_make, page_record
from pipeline.training.checkpoint import CHECKPOINT_VERSION

CHECKPOINT = "checkpoint_1"


def small_crn(tiny_set: str, **model: Any) -> tuple[TrainConfig, dict[str, torch.Tensor]]:
    """Config and weights of a model that answers differently for different videos of the set; ``model`` are more
    fields of its config.
    """
    torch.set_num_threads(1)
    small = CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4, modalities=("rgb", "flow"))
    config = TrainConfig(
        model=dataclasses.replace(small, **model),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=tiny_set, batch_size=4, decoder="reference"),
    )
    torch.manual_seed(3)
    built = build_model(config.model, num_classes=4, crop=32)
    with torch.no_grad():  # random weights hardly react to their input; larger classifiers do
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.mul_(60)
    return config, built.state_dict()


def small_state(tiny_set: str, config: TrainConfig) -> dict[str, Any]:
    """What the ``state.json`` of a checkpoint says that a predictor needs."""
    manifest = read_manifest(open_storage(tiny_set))
    return {
        "version": CHECKPOINT_VERSION,
        "config": as_dict(config),
        "classes": list(manifest.classes),
        "stored": manifest.parameters,
        "manifest_digest": manifest.digest,
        "run_id": "r",
    }


def finished_run(folder: Path, tiny_set: str) -> str:
    """Write a run's folder, evaluated on two views, and its MLflow run; returns its URI."""
    config, weights = small_crn(tiny_set)
    state = small_state(tiny_set, config)
    run = open_storage(f"file://{folder}")
    record = RunRecord(
        config=state["config"], identity=config.identity(), manifest_digest=state["manifest_digest"], code_version="t"
    )
    run.write(RUN, json.dumps(dataclasses.asdict(record)).encode())
    run.write(f"{CHECKPOINT}/model.safetensors", safetensors.torch.save(weights))
    run.write(f"{CHECKPOINT}/state.json", json.dumps(state).encode())
    num_classes = len(state["classes"])
    report = EvalReport(
        run_id="r",
        model="small",
        modalities=("rgb", "flow"),
        dataset="tiny",
        manifest_digest=state["manifest_digest"],
        split="test",
        protocol="2x1",
        num_videos=8,
        num_damaged=0,
        classes=tuple(state["classes"]),
        scores={name: {"top1": 0.5, "top5": 1.0} for name in ("rgb", "flow", "fused")},
        per_class=(0.5,) * num_classes,
        confusion=((1,) * num_classes,) * num_classes,
        checkpoint=CHECKPOINT,
        code_version="t",
        seconds=1.0,
        predictions="0" * 64,
    )
    run.write(report_path("test", "2x1"), report.to_json().encode())
    tracking_run_id = find_or_make(page_record("reciprocal", "r", {}, {})).info.run_id
    result = {"checkpoint": CHECKPOINT, "metrics": {}, "seconds": 1.0, "tracking_run_id": tracking_run_id}
    run.write(RESULT, json.dumps(result).encode())
    return run.uri
