"""What every worker of an evaluation runs. A module of its own: Ray pickles functions of ``__main__`` by value."""

from __future__ import annotations

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.evaluation.evaluate import Part, predict_part
from pipeline.models import build_model
from pipeline.runs.folder import fetched_checkpoint
from pipeline.storage import open_storage
from pipeline.training.checkpoint import load_weights


def evaluate_rank(
    run_uri: str,
    checkpoint: str,
    config: TrainConfig,
    split: str,
    num_views: int,
    num_crops: int,
    rank: int,
    world_size: int,
    gpu: bool,
) -> Part:
    """One worker's share of the split."""
    torch.set_num_threads(max(1, int(config.run.cpus_per_worker)))
    storage, device = open_storage(config.data.uri), torch.device("cuda" if gpu else "cpu")
    manifest = read_manifest(storage)
    model = build_model(config.model, num_classes=len(manifest.classes), crop=config.clip.crop)
    with fetched_checkpoint(open_storage(run_uri), checkpoint) as folder:
        load_weights(folder, model)
    with make_loader(
        storage,
        manifest,
        split,
        data=config.data,
        clip=config.clip,
        modalities=config.model.modalities,
        train=False,
        seed=config.run.seed,
        rank=rank,
        world_size=world_size,
        num_views=num_views,
        num_crops=num_crops,
        device="gpu" if gpu and config.data.device != "cpu" else "cpu",
        target=device,
        channels_last=True,
    ) as loader:
        return predict_part(model, loader.iter_epoch(0), device=device, precision=config.run.precision)
