"""Early stopping: which score is the best, when a run ends, and that its last checkpoint has the best weights."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.stop import StopConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import ConfigError, UserError
from pipeline.models import ActionModel
from pipeline.training.checkpoint import read_state
from pipeline.training.stopping import EarlyStopping, best_of, is_over
from tests.support.training_runs import Stop, free_port, newest_in, store_in, train_here

pytestmark = pytest.mark.slow

NAN = math.nan


@pytest.mark.parametrize(
    ("metric", "min_delta", "patience", "scores", "ends_after", "best"),
    [
        # loss: lower is better. The run ends with the first score that is the patience-th in a row without a better one
        ("loss", 0.0, 2, [3.0, 2.0, 2.5, 2.4, 1.0], 4, 1),
        ("loss", 0.0, 2, [3.0, 2.0, 2.5, 1.9, 2.0, 1.95, 0.1], 6, 3),
        ("loss", 0.0, 3, [3.0, 2.0, 1.0, 0.9], None, 3),
        ("loss", 0.0, 1, [1.0, 1.0], 2, 0),  # an equal score is no improvement
        ("loss", 0.25, 3, [2.0, 1.9, 1.8, 1.7, 0.0], None, 4),  # 1.7 is better than 2.0 by more than 0.25
        ("loss", 0.25, 2, [2.0, 1.9, 1.8, 1.7], 3, 0),
        ("top1", 0.0, 2, [0.25, 0.5, 0.5, 0.375, 0.75], 4, 1),
        ("top1", 0.125, 2, [0.25, 0.375, 0.5, 0.5, 0.625, 0.75], 5, 2),
        ("loss", 0.0, 2, [NAN, NAN, 1.0], 2, -1),
        ("loss", 0.0, 2, [NAN, 1.0, NAN, 0.5, NAN, NAN], 6, 3),
        ("loss", 0.0, 0, [1.0, 2.0, 3.0, 4.0], None, 0),  # patience 0: never
    ],
)
def test_a_run_ends_where_the_definition_says(metric, min_delta, patience, scores, ends_after, best) -> None:
    config = StopConfig(patience=patience, metric=metric, min_delta=min_delta)
    over = [n for n in range(1, len(scores) + 1) if is_over(scores[:n], config)]
    assert (over[0] if over else None) == ends_after
    assert best_of(scores[:ends_after], config) == best


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 5))
def test_without_a_least_improvement_the_best_is_the_first_of_the_least(scores: list[int], patience: int) -> None:
    config = StopConfig(patience=patience)
    best = scores.index(min(scores)) if scores else -1
    assert best_of(scores, config) == best
    assert is_over(scores, config) == (len(scores) - 1 - best >= patience)


def config_for(uri: str, epochs: int = 8, patience: int = 2, **run: object) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=2),
        clip=ClipConfig(num_frames=2, crop=16, resize=16, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=epochs),
        stop=StopConfig(patience=patience),
        run=RunConfig(**{"freeze_batchnorm": True, "log_steps": 5, **run}),
    )


class Scripted:
    """A validation whose loss is given; keeps the weights that it saw."""

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.seen = losses, {}

    def __call__(self, model: ActionModel, epoch: int) -> dict[str, float]:
        self.seen[epoch] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"val/loss_1x1": self.losses[epoch], "val/top1_1x1": epoch / 8}


def last(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    with newest_in(folder) as folder:
        return safetensors.torch.load_file(folder / "model.safetensors"), read_state(folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


LOSSES = [3.0, 1.0, 2.0, 0.5, 0.6, 0.7, 0.1, 0.0]  # patience 2: the best is the fourth, the run ends after the sixth


def test_the_last_checkpoint_has_the_best_weights_and_their_metrics(tiny_set: str, tmp_path: Path) -> None:
    validate = Scripted(LOSSES)
    metrics = train_here(config_for(tiny_set), store_in(tmp_path), validate=validate).metrics
    assert sorted(validate.seen) == [0, 1, 2, 3, 4, 5]
    weights, state = last(tmp_path)
    assert same(weights, validate.seen[3])
    assert not same(weights, validate.seen[5])
    assert (metrics["val/loss_1x1"], metrics["val/top1_1x1"], metrics["stop/best_epoch"]) == (0.5, 3 / 8, 4.0)
    assert state["metrics"] == metrics
    assert state["position"]["epoch"] == 6


def test_a_run_that_reaches_its_last_epoch_keeps_the_best_weights_too(tiny_set: str, tmp_path: Path) -> None:
    validate = Scripted([3.0, 1.0, 2.0])
    metrics = train_here(config_for(tiny_set, epochs=3, patience=5), store_in(tmp_path), validate=validate).metrics
    assert same(last(tmp_path)[0], validate.seen[1])
    assert metrics["stop/best_epoch"] == 2.0


def test_without_patience_the_last_weights_are_kept(tiny_set: str, tmp_path: Path) -> None:
    validate = Scripted([1.0, 2.0, 3.0])
    metrics = train_here(config_for(tiny_set, epochs=3, patience=0), store_in(tmp_path), validate=validate).metrics
    assert same(last(tmp_path)[0], validate.seen[2])
    assert "stop/best_epoch" not in metrics
    with newest_in(tmp_path) as folder:
        assert not list(folder.glob("best*")) + list(folder.glob("stopping*"))


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_as_one_that_never_was(tiny_set: str, tmp_path: Path) -> None:
    config = config_for(tiny_set, checkpoint_steps=3)
    whole = Scripted(LOSSES)
    train_here(config, store_in(tmp_path / "whole"), validate=whole)
    weights, state = last(tmp_path / "whole")
    broken, deaths = Scripted(LOSSES), 0
    # Checkpoints after steps 3, 6, 9, ... and at the end of each epoch of five: 14, the last of which ends the run.
    for stop in (3, 4, 1, 6):
        with pytest.raises(Stop):
            train_here(config, store_in(tmp_path / "broken", stop), validate=broken)
        deaths += 1
    steps = []
    metrics = train_here(config, store_in(tmp_path / "broken"), validate=lambda *_: steps.append(1) or {}).metrics
    resumed_weights, resumed_state = last(tmp_path / "broken")
    for name in ("val/loss_1x1", "val/top1_1x1", "stop/best_epoch"):
        assert resumed_state["metrics"][name] == state["metrics"][name]
    assert (deaths, same(weights, resumed_weights)) == (4, True)
    assert resumed_state["position"] == state["position"]
    assert metrics["stop/best_epoch"] == 4.0
    assert steps == [], "a run that had ended trains no further"


@pytest.mark.parametrize("damage", ["stopping.json cut", "stopping.json gone", "best.safetensors gone"])
def test_a_damaged_checkpoint_is_one_line(tiny_set: str, tmp_path: Path, damage: str) -> None:
    file, how = damage.split()
    stopping = EarlyStopping(config_for(tiny_set), 0)
    stopping.add({"val/loss_1x1": 1.0}, 1, torch.nn.Linear(2, 2))
    stopping.add({"val/loss_1x1": NAN}, 2, torch.nn.Linear(2, 2))
    stopping.save(tmp_path)
    EarlyStopping(config_for(tiny_set), 0).restore(tmp_path)
    if how == "gone":
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text((tmp_path / file).read_text()[:20])
    with pytest.raises(UserError, match=rf"is not a checkpoint of a run that stops early: .*{file}"):
        EarlyStopping(config_for(tiny_set), 0).restore(tmp_path)


def _rank(rank: int, port: int, config: TrainConfig, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # Ranks of different machines may differ in the last bits: here so much that rank 1 alone would never stop.
    validate = Scripted(LOSSES if rank == 0 else [1.0 / (n + 1) for n in range(8)])
    metrics = train_here(config, store_in(Path(folder) / "run"), rank, 2, validate=validate).metrics
    (Path(folder) / f"{rank}.json").write_text(json.dumps([sorted(validate.seen), metrics["stop/best_epoch"]]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_rank_0_decides_for_all_ranks(tiny_set: str, tmp_path: Path) -> None:
    mp.spawn(_rank, args=(free_port(), config_for(tiny_set), str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[0, 1, 2, 3, 4, 5], 4.0]


def test_early_stopping_needs_a_validation(tiny_set: str) -> None:
    config = config_for(tiny_set)
    with pytest.raises(ConfigError, match=r"stop\.patience = 2: early stopping needs a validation"):
        dataclasses.replace(config, data=dataclasses.replace(config.data, val_split=""))
    for change in ({"patience": -1}, {"min_delta": -0.1}):
        with pytest.raises(ConfigError, match=r"stop\."):
            StopConfig(**change)  # type: ignore[arg-type]
