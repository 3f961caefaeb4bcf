"""The loop on real stored clips: resuming, exactly-once, ranks against one process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import ReciprocalError, UserError
from pipeline.models import ActionModel, build_model
from pipeline.training.checkpoint import load_weights, read_samples, read_state
from pipeline.training.collective import average_buffers
from tests.support.training_runs import Stop, free_port, newest_in, store_in, train_here

pytestmark = pytest.mark.slow


def tiny_config(uri: str, **run: object) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, val_split="", decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=2, warmup_steps=2, schedule="cosine"),
        run=RunConfig(**{"log_samples": True, "freeze_batchnorm": True, "log_steps": 2, **run}),
    )


def final_state(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict], dict]:
    with newest_in(folder) as folder:
        return (
            safetensors.torch.load_file(folder / "model.safetensors"),
            [json.loads(line) for line in read_samples(folder)],
            read_state(folder),
        )


def test_stopped_anywhere_and_resumed_equals_undisturbed(tiny_set: str, tmp_path: Path) -> None:
    config = tiny_config(tiny_set, checkpoint_steps=1)
    train_here(config, store_in(tmp_path / "whole"))
    for stop in (3, 2, 1):  # three deaths in one run: after 3 checkpoints, then after 2 more, then after 1 more
        with pytest.raises(Stop):
            train_here(config, store_in(tmp_path / "broken", stop))
    train_here(config, store_in(tmp_path / "broken"))
    weights, samples, state = final_state(tmp_path / "whole")
    resumed_weights, resumed_samples, resumed_state = final_state(tmp_path / "broken")
    assert weights.keys() == resumed_weights.keys()
    worst = max((weights[k].double() - resumed_weights[k].double()).abs().max().item() for k in weights)
    assert worst == 0, f"largest difference {worst}"
    assert samples == resumed_samples
    assert state["position"] == resumed_state["position"] == {"epoch": 2, "step": 0, "global_step": 10}


@pytest.mark.slow
def test_compiled_steps_are_the_same_steps(tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compile_training = ActionModel.compile_training
    monkeypatch.setattr(ActionModel, "compile_training", lambda self: compile_training(self, backend=graphs))
    weights = []
    for compiled in (False, True):
        train_here(tiny_config(tiny_set, compile=compiled), store_in(tmp_path / str(compiled)))
        weights.append(final_state(tmp_path / str(compiled))[0])
    assert graphs.frame_count == 1  # ten steps, ten draws of the supervised step
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
    assert tiny_config(tiny_set, compile=True).identity() == tiny_config(tiny_set).identity()


def test_every_sample_of_an_epoch_is_used_once(tiny_set: str, tmp_path: Path) -> None:
    train_here(tiny_config(tiny_set), store_in(tmp_path))
    _, lines, _ = final_state(tmp_path)
    for epoch in (0, 1):
        keys = [key for line in lines if line["epoch"] == epoch for key in line["keys"]]
        assert len(keys) == len(set(keys)) == 20


def _rank(rank: int, world_size: int, port: int, config: TrainConfig, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    train_here(config, store_in(Path(folder) / "both"), rank, world_size)
    dist.destroy_process_group()


def _averages(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm1d(2))
    for buffer in model.buffers():
        buffer.fill_(rank * 4 + 1)
    average_buffers(model)
    Path(folder, str(rank)).write_text(json.dumps([buffer.flatten().tolist() for buffer in model.buffers()]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_running_statistics_are_averaged_over_ranks(tmp_path: Path) -> None:
    mp.spawn(_averages, args=(free_port(), str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first[:2] == second[:2] == [[3.0] * 3, [3.0] * 3]  # mean of 1 and 5
    assert (first[2], second[2]) == ([1], [5])  # a counter is left alone


@pytest.mark.slow
def test_two_ranks_equal_one_process(tiny_set: str, tmp_path: Path) -> None:
    port = free_port()
    config = tiny_config(tiny_set)
    mp.spawn(_rank, args=(2, port, config, str(tmp_path)), nprocs=2)
    train_here(config, store_in(tmp_path / "single"))
    single, lines, _ = final_state(tmp_path / "single")
    both, shared, _ = final_state(tmp_path / "both")
    worst = max(
        (single[k].double() - both[k].double()).abs().max().item() for k in single if single[k].is_floating_point()
    )
    print(f"two ranks against one process: largest weight difference {worst:.2e}")
    assert worst < 1e-5  # sums over 4 clips in another order, through 10 steps of SGD
    assert [line["rank"] for line in shared] == [0, 1] * 10
    assert [sorted(a["keys"] + b["keys"]) for a, b in zip(shared[::2], shared[1::2], strict=True)] == [
        sorted(line["keys"]) for line in lines
    ]


def test_weights_of_another_model_are_refused(tiny_set: str, tmp_path: Path) -> None:
    config = tiny_config(tiny_set)
    train_here(dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=1)), store_in(tmp_path))
    other = build_model(dataclasses.replace(config.model, hidden=16), num_classes=4, crop=32)
    with (
        newest_in(tmp_path) as folder,
        pytest.raises(UserError, match=r"do not fit the model: missing or of another shape \["),
    ):
        load_weights(folder, other)


def test_a_loss_that_explodes_names_step_and_samples(tiny_set: str, tmp_path: Path) -> None:
    config = tiny_config(tiny_set)
    wild = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, lr=1e30, backbone_lr=1e30, clip_norm=0, warmup_steps=0)
    )
    with pytest.raises(ReciprocalError, match=r"not finite at step \d+, samples \S+"):
        train_here(wild, store_in(tmp_path))
