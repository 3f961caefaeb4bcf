"""Training with recorded passes ends with the weights of training without, whatever is drawn, split or shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import ConfigError
from tests.support.training_runs import Stop, free_port, newest_in, store_in, train_here

CRN = CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4, dropout=0.5)
MRST = MRSTConfig(blocks=(1,), mid=(4,), out=(4,), stem=4, num_steps=4, lstm=4, dropout=0.5)


def config_for(uri: str, model: CRNConfig | MRSTConfig = CRN, micro_batch: int = 0, **run: Any) -> TrainConfig:
    return TrainConfig(
        model=model,
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, micro_batch=micro_batch, val_split="", decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=2, warmup_steps=2),
        run=RunConfig(log_steps=2, **run),
    )


def state_in(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, running statistics, averages of the optimiser."""
    with newest_in(folder) as checkpoint:
        found = safetensors.torch.load_file(checkpoint / "model.safetensors")
        for number, state in torch.load(checkpoint / "optimizer.pt", weights_only=True)["optimizer"]["state"].items():
            found |= {f"{number}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
    return found


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a)


@pytest.mark.slow
@pytest.mark.parametrize("model", [CRN, MRST], ids=["CRN", "MRST"])
@pytest.mark.parametrize("micro_batch", [0, 3, 1])
def test_the_same_weights_as_without(
    tiny_set: str, tmp_path: Path, model: CRNConfig | MRSTConfig, micro_batch: int
) -> None:
    """With statistics that batch normalisation learns, units that drop out, supervised steps that are drawn, and
    micro-batches of two shapes.
    """
    found = []
    for name, run in (("eager", {}), ("recorded", {"cuda_graph": True})):
        train_here(config_for(tiny_set, model, micro_batch, **run), store_in(tmp_path / name))
        found.append(state_in(tmp_path / name))
    assert apart(*found) == 0.0


@pytest.mark.slow
def test_a_run_may_change_to_recorded_passes_in_its_middle(tiny_set: str, tmp_path: Path) -> None:
    train_here(config_for(tiny_set), store_in(tmp_path / "whole"))
    with pytest.raises(Stop):
        train_here(config_for(tiny_set), store_in(tmp_path / "both", stop_after=1))
    train_here(config_for(tiny_set, cuda_graph=True), store_in(tmp_path / "both"))
    assert apart(state_in(tmp_path / "whole"), state_in(tmp_path / "both")) == 0.0


def _rank(rank: int, port: int, config: TrainConfig, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        train_here(config, store_in(Path(folder)), rank, 2)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_ranks_equal_one(tiny_set: str, tmp_path: Path) -> None:
    """Ranks add gradients up by themselves, once a step of two micro-batches."""
    run = {"freeze_batchnorm": True}
    config = config_for(tiny_set, micro_batch=1, cuda_graph=True, **run)
    mp.spawn(_rank, args=(free_port(), config, str(tmp_path / "two")), nprocs=2)
    train_here(config_for(tiny_set, **run), store_in(tmp_path / "one"))
    assert apart(state_in(tmp_path / "one"), state_in(tmp_path / "two")) < 1e-6


@pytest.mark.parametrize(
    ("run", "fix"),
    [
        ({"compile": True}, "is not compiled, and has no exchange between ranks: leave this out, or run.compile"),
        ({"sync_batchnorm": True, "num_workers": 2}, "leave this out, or run.sync_batchnorm"),
        ({"use_gpu": "no"}, "ranks without a GPU have nothing to record: leave it out, or use run.use_gpu yes"),
    ],
)
def test_what_does_not_go_with_it_is_refused(run: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.cuda_graph = True: .*{fix}"):
        RunConfig(cuda_graph=True, **run)
    with pytest.raises(ConfigError, match=r"run\.cuda_graph = True: ranks without a GPU"):
        RunConfig(cuda_graph=True).check_device(False)
