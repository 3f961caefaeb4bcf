"""What a ``jobs.train`` command ends with to which nothing happens: its run without Ray, in processes of the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jobs.train.command import parse_config
from pipeline.config.train import TrainConfig
from tests.support.training_runs import free_port, newest_in, store_in, train_here


def trained(words: Sequence[str], folder: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Final weights.

    Args:
        words: of the command line: a recipe and its options. Weights and order of samples are those of seed 0.
        folder: of the checkpoints.
    """
    config = parse_config(words)
    if ranks == 1:
        train_here(config, store_in(folder))
    else:
        mp.spawn(_rank, args=(ranks, free_port(), config, str(folder)), nprocs=ranks)
    with newest_in(folder) as checkpoint:
        return safetensors.torch.load_file(checkpoint / "model.safetensors")


def _rank(rank: int, ranks: int, port: int, config: TrainConfig, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    try:
        train_here(config, store_in(Path(folder)), rank, ranks)
    finally:
        dist.destroy_process_group()
