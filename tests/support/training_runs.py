"""One rank of a training in this process, without Ray, and a reporter that dies as a killed process would."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.config.train import TrainConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.models import build_model
from pipeline.storage import Storage, open_storage
from pipeline.training.checkpoint import RunFacts
from pipeline.training.local import LocalReporter
from pipeline.training.loop import Validate, train


class Stop(Exception):
    """The process dies."""


class StoppingReporter(LocalReporter):
    """Dies right after its n-th checkpoint; 0: never."""

    def __init__(self, storage: Storage, stop_after: int = 0) -> None:
        super().__init__(storage)
        self._left = stop_after

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        super().save(metrics, write)
        self._left -= 1
        if self._left == 0:
            raise Stop


def reporter_in(folder: Path, stop_after: int = 0) -> StoppingReporter:
    """Checkpoints in a folder."""
    return StoppingReporter(open_storage(f"file://{folder}"), stop_after)


def train_here(
    config: TrainConfig,
    reporter: LocalReporter,
    rank: int = 0,
    world_size: int = 1,
    validate: Validate | None = None,
) -> dict[str, float]:
    """Train one rank on the CPU with one thread, weights and data from seed 0; returns the last metrics."""
    torch.set_num_threads(1)
    storage = open_storage(config.data.uri)
    manifest = read_manifest(storage)
    facts = RunFacts(
        config=config,
        manifest_digest=manifest.digest,
        dataset="tiny",
        classes=manifest.classes,
        stored=manifest.parameters,
        code_version="test",
        run_id="r",
    )
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=len(manifest.classes), crop=config.clip.crop)
    with make_loader(
        storage,
        manifest,
        "train",
        data=config.data,
        clip=config.clip,
        modalities=config.model.modalities,
        train=True,
        seed=0,
        rank=rank,
        world_size=world_size,
    ) as loader:
        return train(facts, model, loader, reporter, device=torch.device("cpu"), rank=rank, validate=validate)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody had a moment ago, for the process group of a test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
