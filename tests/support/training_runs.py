"""One rank of a training in this process, without Ray, and a store that dies as a killed process would."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.config.train import TrainConfig
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest
from pipeline.models import build_model
from pipeline.runs.facts import run_facts
from pipeline.storage import Storage, open_storage
from pipeline.training.checkpoint import check_readable
from pipeline.training.loop import Outcome, Validate, train


class Stop(Exception):
    """The process dies."""


class StoppingStore(CheckpointStore):
    """The process dies right after its n-th checkpoint, before it stores another; 0: never."""

    def __init__(self, run: Storage, stop_after: int = 0, **options: Any) -> None:
        super().__init__(run, **options)
        self._left = stop_after

    def save(self, folder: Path, position: Position, metrics: Mapping[str, float]) -> str:
        name = super().save(folder, position, metrics)
        self._left -= 1
        if self._left == 0:
            raise Stop
        return name


def store_in(folder: Path, stop_after: int = 0, **options: Any) -> StoppingStore:
    """Checkpoints in a folder."""
    return StoppingStore(open_storage(f"file://{folder}"), stop_after, **options)


@contextlib.contextmanager
def newest_in(folder: Path) -> Iterator[Path]:
    """The files of the newest checkpoint in a folder."""
    with store_in(folder).newest(check_readable) as found:
        assert found is not None
        yield found[1]


def train_here(
    config: TrainConfig,
    checkpoints: CheckpointStore,
    rank: int = 0,
    world_size: int = 1,
    validate: Validate | None = None,
    **options: Any,
) -> Outcome:
    """Train one rank on the CPU with one thread, weights and data from seed 0; ``options`` are those of ``train``."""
    torch.set_num_threads(1)
    storage = open_storage(config.data.uri)
    manifest = read_manifest(storage)
    facts = run_facts(config, manifest, code_version="test", run_id="r")
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
        return train(
            facts, model, loader, checkpoints, device=torch.device("cpu"), rank=rank, validate=validate, **options
        )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody had a moment ago, for the process group of a test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
