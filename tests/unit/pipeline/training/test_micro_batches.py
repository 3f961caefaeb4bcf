"""A step in micro-batches is the same step; a run that loses ranks ends where an undisturbed one does."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.data.batch import Batch
from pipeline.models import build_model
from pipeline.training.ask import Ask
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.passes import EagerPasses
from pipeline.training.step import Stepper
from tests.support.training_runs import free_port, newest_in, store_in, train_here

Weights = dict[str, torch.Tensor]


def tiny_config(uri: str, *, micro_batch: int = 0, dropout: float = 0.0, **run: object) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4, dropout=dropout),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, micro_batch=micro_batch, val_split="", decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=1, warmup_steps=2),
        run=RunConfig(**{"freeze_batchnorm": True, "log_steps": 2, **run}),
    )


def run(config: TrainConfig, folder: Path, rank: int = 0, world_size: int = 1, leave_at: int = 0) -> None:
    asks = itertools.count(1)
    outcome = train_here(
        config,
        store_in(folder),
        rank,
        world_size,
        # One rank alone asks, as the one whose node is taken away.
        ask=lambda: Ask.LEAVE if next(asks) == leave_at and rank == world_size - 1 else Ask.NONE,
    )
    assert outcome.left == bool(leave_at)


def weights(folder: Path) -> Weights:
    with newest_in(folder) as checkpoint:
        return safetensors.torch.load_file(checkpoint / "model.safetensors")


def difference(a: Weights, b: Weights) -> float:
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def _rank(rank: int, world_size: int, port: int, config: TrainConfig, folder: str, leave_at: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        run(config, Path(folder), rank, world_size, leave_at)
    finally:
        dist.destroy_process_group()


def on_ranks(world_size: int, config: TrainConfig, folder: Path, leave_at: int = 0) -> None:
    mp.spawn(_rank, args=(world_size, free_port(), config, str(folder), leave_at), nprocs=world_size)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("micro_batch", "dropout"), [(0, 0.0), (0, 0.5), (1, 0.5)])
def test_four_ranks_then_two_equal_one(tiny_set: str, tmp_path: Path, micro_batch: int, dropout: float) -> None:
    """Asked by one rank to leave after step 2 of 5 on four ranks, resumed on two: a clip drops the same units."""
    config = tiny_config(tiny_set, micro_batch=micro_batch, dropout=dropout)
    run(config, tmp_path / "single")
    on_ranks(4, config, tmp_path / "broken", leave_at=2)
    stopped = weights(tmp_path / "broken")
    on_ranks(2, config, tmp_path / "broken")
    end, whole = weights(tmp_path / "broken"), weights(tmp_path / "single")
    worst, way = difference(end, whole), difference(stopped, whole)
    print(
        f"4 ranks, then 2, against 1 (micro_batch {micro_batch}, dropout {dropout}): largest weight difference"
        f" {worst:.2e}; from step 2 to the end {way:.2e}"
    )
    # Sums over four clips in another order, through five steps of SGD in float32.
    assert worst < 1e-6 < way


@pytest.mark.slow
def test_micro_batches_of_a_step_add_up(tiny_set: str, tmp_path: Path) -> None:
    """4 clips at once, 3 + 1, and one by one: the same weights after 5 steps, the last of which holds no filler."""
    folders = {}
    for micro_batch in (0, 3, 1):
        folders[micro_batch] = tmp_path / str(micro_batch)
        run(tiny_config(tiny_set, micro_batch=micro_batch), folders[micro_batch])
    for micro_batch in (3, 1):
        worst = difference(weights(folders[0]), weights(folders[micro_batch]))
        print(f"micro-batches of {micro_batch}: largest weight difference {worst:.2e}")
        assert worst < 1e-6


def test_a_clip_of_weight_0_takes_nothing_from_the_others(tiny_set: str) -> None:
    """Gradients of micro-batches (a), (b, damaged) are those of the plain mean over a and b."""
    config = tiny_config(tiny_set)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, clip_norm=0, warmup_steps=0))
    torch.manual_seed(3)
    inputs = {"rgb": torch.randn(3, 4, 3, 32, 32), "flow": torch.randn(3, 4, 2, 32, 32)}
    labels = torch.tensor([0, 2, 1])

    def gradients(micro_batches: list[list[int]], batch_size: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(config.model, num_classes=4, crop=32).eval()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        optimizer = build_optimizer(model, config)
        whole = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=batch_size))
        cpu = torch.device("cpu")
        passes = EagerPasses(model, whole, cpu)
        stepper = Stepper(passes, model, optimizer, build_scheduler(optimizer, config, 10), whole, cpu)
        offset = 0
        for number, rows in enumerate(micro_batches):
            batch = Batch(
                {m: x[rows] for m, x in inputs.items()},
                labels[rows],
                torch.tensor([0.0 if r == 2 else 1.0 for r in rows]),
                tuple("abc"[r] for r in rows),
                0,
                0,
                number,
                len(micro_batches),
                offset,
            )
            assert stepper(batch, 0) == (number == len(micro_batches) - 1)
            offset += len(rows)
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with_damage, plain = gradients([[0], [1, 2]], 3), gradients([[0, 1]], 2)
    scale = max(g.abs().max().item() for g in plain)
    worst = max((a - b).abs().max().item() for a, b in zip(with_damage, plain, strict=True))
    assert scale > 1e-3
    assert worst < 1e-5 * scale
