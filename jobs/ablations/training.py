"""One training of ``jobs.ablations`` and its test, in one process. A separate module, because Ray pickles functions of
``__main__`` by value.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
import time
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.data import HELD_OUT
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.data.index import load_run_index
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import NotFoundError
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.models import build_model, count_parameters
from pipeline.models.crn.model import CRN
from pipeline.models.interface import ActionModel
from pipeline.runs.facts import run_facts
from pipeline.storage import Storage, open_storage
from pipeline.training.loop import train

TEST_SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class Training:
    """One task."""

    variant: str
    config: TrainConfig
    path: str
    """Of its result."""
    fold: str = ""
    """Name of the fold that it leaves out and is tested on; empty: it is tested on the split ``test``."""
    start: str = ""
    """Path of the backbones' weights that it starts from, those that another training kept; empty: random weights."""
    keep: str = ""
    """Path to which it writes its backbones' weights; empty: none."""

    @property
    def title(self) -> str:
        """For a person: variant, seed and fold."""
        return f"{self.variant}, seed {self.config.run.seed}" + (f", fold {self.fold}" if self.fold else "")


def result_path(variant: str, config: TrainConfig, manifest: Manifest, start: str = "") -> str:
    """File name of a training's result; another config, data set or start has another name."""
    decides = [config.identity(), manifest.digest, *([start] if start else [])]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    return f"{variant}-seed{config.run.seed}-{digest}.json"


def read_result(out: Storage, path: str) -> dict[str, Any] | None:
    """The result of a finished training, or None."""
    try:
        return json.loads(out.read(path))
    except NotFoundError:
        return None


def train_and_test(training: Training, out_uri: str) -> dict[str, Any]:
    """Train on one core, test with one view per video, store and return the result. A stored result is returned as it
    is.

    Returns:
        variant, seed, fold; top1 per stream in [0, 1] (streams as the model names them, and fused); correct per stream,
        text of a 1 or 0 for each test video in the order of their keys; params; seconds; train_top1 of the last epoch's
        clips; code.
    """
    config = training.config
    torch.set_num_threads(1)
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    data, out = open_storage(config.data.uri), open_storage(out_uri)
    manifest = read_manifest(data)
    if found := read_result(out, training.path):
        return found
    torch.manual_seed(config.run.seed)
    model = build_model(config.model, num_classes=len(manifest.classes), crop=config.clip.crop)
    if training.start:
        load_backbones(model, out.read(training.start))
    facts = run_facts(config, manifest, code_version=code_version(), run_id=training.variant)
    common: dict[str, Any] = {
        "clip": config.clip,
        "modalities": config.model.modalities,
        "seed": config.run.seed,
        "rank": 0,
        "world_size": 1,
        "device": "cpu",
        "device_id": 0,
        "channels_last": True,
    }
    cpu, start_s = torch.device("cpu"), time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        make_loader(data, manifest, config.data.train_split, data=config.data, train=True, **common) as loader,
    ):
        checkpoints = CheckpointStore(open_storage(f"file://{folder}"), keep=1)
        metrics = train(facts, model, loader, checkpoints, device=cpu).metrics
    split = HELD_OUT if training.fold else TEST_SPLIT
    with make_loader(
        data,
        manifest,
        split,
        data=dataclasses.replace(config.data, batch_size=3 * config.data.batch_size),
        train=False,
        num_views=1,
        **common,
    ) as loader:
        part = predict_part(model, loader.iter_epoch(0), device=cpu)
    index = load_run_index(data, manifest, split, config.model.modalities, config.data)
    predictions = join_parts([part], {index.key(i): int(index.labels[i]) for i in range(len(index))})
    order = np.argsort(predictions.keys)
    right = {stream: (p.argmax(1) == predictions.labels)[order] for stream, p in predictions.streams.items()}
    result = {
        "variant": training.variant,
        "seed": config.run.seed,
        "fold": training.fold,
        "top1": {stream: values["top1"] for stream, values in predictions.scores().items()},
        "correct": {stream: "".join("01"[int(one)] for one in values) for stream, values in right.items()},
        "params": count_parameters(model),
        "train_top1": metrics["train/top1"],
        "seconds": round(time.perf_counter() - start_s, 1),
        "code": code_version(),
    }
    if training.keep:  # before the result, which says that all is there
        out.write(training.keep, kept_backbones(model))
    out.write(training.path, json.dumps(result, indent=1, sort_keys=True).encode())
    return result


def kept_backbones(model: ActionModel) -> bytes:
    """Weights and running statistics of the backbones of a CRN, as safetensors: MODALITY.NAME for each tensor."""
    assert isinstance(model, CRN)
    state = {
        f"{m}.{name}": value.contiguous()
        for m in model.modalities
        for name, value in model.backbone(m).state_dict().items()
    }
    return safetensors.torch.save(state)


def load_backbones(model: ActionModel, data: bytes) -> None:
    """Inverse of ``kept_backbones``, for a CRN of the same modalities and backbones."""
    assert isinstance(model, CRN)
    state = safetensors.torch.load(data)
    for m in model.modalities:
        own = {name.removeprefix(f"{m}."): value for name, value in state.items() if name.startswith(f"{m}.")}
        model.backbone(m).load_state_dict(own)
