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

import torch

from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.train import TrainConfig
from pipeline.config.version import code_version
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import Manifest, read_manifest, read_records
from pipeline.errors import NotFoundError
from pipeline.evaluation.evaluate import join_parts, predict_part
from pipeline.models import build_model, count_parameters
from pipeline.runs.facts import run_facts
from pipeline.storage import Storage, open_storage
from pipeline.training.loop import train

TEST_SPLIT = "test"


def result_path(name: str, config: TrainConfig, manifest: Manifest) -> str:
    """File name of a training's result; another config or data set has another name."""
    digest = hashlib.sha256(json.dumps([config.identity(), manifest.digest], sort_keys=True).encode()).hexdigest()[:8]
    return f"{name}-seed{config.run.seed}-{digest}.json"


def read_result(out: Storage, path: str) -> dict[str, Any] | None:
    """The result of a finished training, or None."""
    try:
        return json.loads(out.read(path))
    except NotFoundError:
        return None


def train_and_test(name: str, config: TrainConfig, out_uri: str) -> dict[str, Any]:
    """Train on one core, test with one view per video, store and return the result. A stored result is returned as it
    is.

    Returns:
        name, seed, top1 per stream in [0, 1] (streams as the model names them, and fused), params, seconds, train_top1
        of the last epoch's clips, code.
    """
    torch.set_num_threads(1)
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    data, out = open_storage(config.data.uri), open_storage(out_uri)
    manifest = read_manifest(data)
    path = result_path(name, config, manifest)
    if found := read_result(out, path):
        return found
    torch.manual_seed(config.run.seed)
    model = build_model(config.model, num_classes=len(manifest.classes), crop=config.clip.crop)
    facts = run_facts(config, manifest, code_version=code_version(), run_id=name)
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
    with make_loader(
        data,
        manifest,
        TEST_SPLIT,
        data=dataclasses.replace(config.data, batch_size=3 * config.data.batch_size),
        train=False,
        num_views=1,
        **common,
    ) as loader:
        part = predict_part(model, loader.iter_epoch(0), device=cpu)
    labels = {s.key: s.label for record in read_records(data, manifest, TEST_SPLIT) for s in record.samples}
    scores = join_parts([part], labels).scores()
    result = {
        "name": name,
        "seed": config.run.seed,
        "top1": {stream: values["top1"] for stream, values in scores.items()},
        "params": count_parameters(model),
        "train_top1": metrics["train/top1"],
        "seconds": round(time.perf_counter() - start_s, 1),
        "code": code_version(),
    }
    out.write(path, json.dumps(result, indent=1, sort_keys=True).encode())
    return result
