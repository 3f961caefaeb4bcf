"""A checkpoint is data: what it refuses to load, and that loading it runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.training.checkpoint import (
    Position,
    RunFacts,
    load_main,
    read_samples,
    read_state,
    save_main,
    save_samples,
)

FACTS = RunFacts(
    config=TrainConfig(),
    manifest_digest="d",
    dataset="set",
    classes=("a", "b"),
    stored={"fps": 10},
    code_version="1",
    run_id="r",
    tracking_run_id="t",
)


class LeavesAMark:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint after three steps."""
    model, optimizer, scheduler = parts()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    save_main(tmp_path, model, optimizer, scheduler, Position(epoch=1, step=2, global_step=3), FACTS, {"m": 0.5})
    return tmp_path


def test_everything_that_decides_the_next_step_comes_back(folder: Path) -> None:
    model, optimizer, scheduler = parts()
    assert load_main(folder, model, optimizer, scheduler) == Position(epoch=1, step=2, global_step=3)
    again = folder / "again"
    again.mkdir()
    save_main(again, model, optimizer, scheduler, Position(epoch=1, step=2, global_step=3), FACTS, {"m": 0.5})
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert read_state(again) == read_state(folder)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert len(momenta) == 4
    assert any(bool(buffer.any()) for buffer in momenta)


def test_the_state_holds_what_evaluation_and_registration_need(folder: Path) -> None:
    state = read_state(folder)
    assert {name: state[name] for name in ("version", "position", "metrics", "classes", "dataset", "stored")} == {
        "version": 1,
        "position": {"epoch": 1, "step": 2, "global_step": 3},
        "metrics": {"m": 0.5},
        "classes": ["a", "b"],
        "dataset": "set",
        "stored": {"fps": 10},
    }
    assert (state["manifest_digest"], state["run_id"], state["tracking_run_id"]) == ("d", "r", "t")
    assert state["identity"] == json.loads(json.dumps(TrainConfig().identity()))


def test_code_in_the_optimisers_state_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"optimizer": LeavesAMark(mark), "scheduler": {}}, folder / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer\.pt"):
        load_main(folder, *parts())
    assert not mark.exists()


def test_another_version_or_no_checkpoint_at_all_is_named(folder: Path, tmp_path: Path) -> None:
    state = read_state(folder)
    (folder / "state.json").write_text(json.dumps({**state, "version": 7}))
    with pytest.raises(UserError, match=r"checkpoint version 7 of .*: this code reads 1"):
        read_state(folder)
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_state(tmp_path / "nothing")


def test_the_samples_of_all_ranks_are_read_in_the_ranks_order(tmp_path: Path) -> None:
    for rank in (10, 2):
        save_samples(tmp_path, rank, [f'{{"rank": {rank}, "line": {i}}}' for i in range(2)])
    assert [json.loads(line) for line in read_samples(tmp_path)] == [
        {"rank": rank, "line": i} for rank in (2, 10) for i in range(2)
    ]
