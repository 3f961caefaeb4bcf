"""What ranks ask of the loop: a checkpoint now, or to leave; by the clock, too."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.checkpoints.listing import State
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import NotFiniteError
from pipeline.models import ActionModel
from pipeline.training import passes, saving, verdict
from pipeline.training.ask import Ask, Asker
from tests.support.training_runs import free_port, newest_in, store_in, train_here

pytestmark = pytest.mark.slow


def config_for(uri: str, epochs: int = 2, **run: object) -> TrainConfig:
    """Epochs of five steps."""
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=2),
        clip=ClipConfig(num_frames=2, crop=16, resize=16, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=epochs),
        run=RunConfig(**{"freeze_batchnorm": True, **run}),
    )


def asking(**at: Ask) -> Asker:
    """What is asked at which call, such as ``call3=Ask.SAVE``."""
    calls = itertools.count(1)
    return lambda: at.get(f"call{next(calls)}", Ask.NONE)


def steps_saved(folder: Path) -> list[int]:
    found = store_in(folder).entries()
    assert {entry.state for entry in found} <= {State.WHOLE}
    return [entry.order[0] for entry in reversed(found)]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    with newest_in(folder) as files:
        return safetensors.torch.load_file(files / "model.safetensors")


class Scores:
    """A validation that gives the model's sum of weights, and counts."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, model: ActionModel, epoch: int) -> dict[str, float]:
        self.epochs.append(epoch)
        return {"val/top1_1x1": sum(float(p.detach().double().sum()) for p in model.parameters())}


def test_a_checkpoint_is_written_after_the_step_that_asked_for_it(tiny_set: str, tmp_path: Path) -> None:
    ask = asking(call2=Ask.SAVE, call5=Ask.SAVE)  # the fifth step ends an epoch, which has a checkpoint anyway
    outcome = train_here(config_for(tiny_set), store_in(tmp_path, keep=9), ask=ask)
    assert steps_saved(tmp_path) == [2, 5, 10]
    assert (outcome.left, outcome.position.global_step, outcome.checkpoint) == (False, 10, "checkpoint_000000010")


def test_an_epoch_without_a_checkpoint_of_its_own_has_one_where_it_is_asked_for(tiny_set: str, tmp_path: Path) -> None:
    config = config_for(tiny_set, checkpoint_epochs=2)
    scores = Scores()
    train_here(config, store_in(tmp_path), validate=scores, ask=asking(call5=Ask.SAVE))
    assert (steps_saved(tmp_path), scores.epochs) == ([5, 10], [1])
    assert store_in(tmp_path).entries()[1].record.position.epoch == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("leave_at", [1, 4, 5, 9, 10])
def test_a_run_that_leaves_goes_on_where_it_left(tiny_set: str, tmp_path: Path, leave_at: int) -> None:
    """After the first step, in mid-epoch, and after an epoch's and the run's last step, whose validation follows."""
    config = config_for(tiny_set)
    undisturbed, scores = Scores(), Scores()
    whole = train_here(config, store_in(tmp_path / "whole"), validate=undisturbed)
    ask = asking(**{f"call{leave_at + (leave_at > 5)}": Ask.LEAVE})  # one call more follows each validation
    outcome = train_here(config, store_in(tmp_path / "left"), validate=scores, ask=ask)
    assert (outcome.left, outcome.position.global_step) == (True, leave_at)
    assert outcome.checkpoint == f"checkpoint_{leave_at:09d}"
    assert steps_saved(tmp_path / "left")[-1] == leave_at
    again = train_here(config, store_in(tmp_path / "left"), validate=scores)
    assert not again.left
    assert scores.epochs == undisturbed.epochs == [0, 1]
    assert again.metrics["val/top1_1x1"] == whole.metrics["val/top1_1x1"]
    weights, expected = final_weights(tmp_path / "left"), final_weights(tmp_path / "whole")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_leaving_is_heard_after_a_validation(tiny_set: str, tmp_path: Path) -> None:
    scores = Scores()
    outcome = train_here(config_for(tiny_set), store_in(tmp_path), validate=scores, ask=asking(call6=Ask.LEAVE))
    assert (outcome.left, outcome.position.epoch, outcome.position.global_step) == (True, 1, 5)
    assert scores.epochs == [0]


def test_a_run_that_is_asked_to_leave_returns_when_its_checkpoint_is_stored(tiny_set: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    save = store.save

    def slow(*args: object) -> str:
        time.sleep(0.5)
        return save(*args)  # type: ignore[arg-type]

    store.save = slow  # type: ignore[method-assign]
    assert train_here(config_for(tiny_set), store, ask=asking(call3=Ask.LEAVE)).left
    assert steps_saved(tmp_path) == [3]


def test_the_clock_asks_for_a_checkpoint_where_none_was_written_for_long(
    tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that moves 100 s with each step: after every third step, or from the last checkpoint on."""
    seconds = itertools.count(0, 100)
    now = [0.0]

    def step() -> Ask:
        now[0] = float(next(seconds)) + 100
        return Ask.NONE

    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    config = config_for(tiny_set, epochs=1, checkpoint_minutes=5.0)
    train_here(config, store_in(tmp_path / "on"), ask=step)
    train_here(config_for(tiny_set, epochs=1, checkpoint_minutes=0.0), store_in(tmp_path / "off"), ask=step)
    assert steps_saved(tmp_path / "on") == [3, 5]
    assert steps_saved(tmp_path / "off") == [5]


def test_the_best_checkpoint_is_the_one_that_was_validated(tiny_set: str, tmp_path: Path) -> None:
    """Later ones keep the score of the last validation in their state, but it is not theirs."""
    values: Callable[..., dict[str, float]] = lambda model, epoch: {"val/top1_1x1": 0.9 - epoch / 2}  # noqa: E731
    store = store_in(tmp_path, keep=1, keep_best="val/top1_1x1")
    train_here(config_for(tiny_set, checkpoint_steps=1), store, validate=values)
    assert steps_saved(tmp_path) == [5, 10]
    best = store.best()
    assert best is not None
    assert (best[0].order[0], best[1]) == (5, 0.9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_goes_on_while_a_checkpoint_travels_which_holds_the_state_of_its_own_step(
    tiny_set: str, tmp_path: Path, optimizer: str
) -> None:
    """The storage takes nothing before the fourth step has begun: a loop that waited for it would never get there."""
    config = config_for(tiny_set, epochs=1)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, name=optimizer))
    store, open_now, calls = store_in(tmp_path / "run", keep=9), threading.Event(), itertools.count(1)
    save = store.save

    def gated(*args: object) -> str:
        assert open_now.wait(60)
        return save(*args)  # type: ignore[arg-type]

    def ask() -> Ask:
        call = next(calls)
        if call == 4:
            assert not store.entries()
            open_now.set()
        return Ask.SAVE if call == 1 else Ask.NONE

    store.save = gated  # type: ignore[method-assign]
    train_here(config, store, ask=ask)
    train_here(config, store_in(tmp_path / "left"), ask=asking(call1=Ask.LEAVE))
    assert steps_saved(tmp_path / "run") == [1, 5]
    for file in ("model.safetensors", "optimizer.pt"):
        mine, other = (tmp_path / name / "checkpoint_000000001" / file for name in ("run", "left"))
        assert mine.read_bytes() == other.read_bytes()


def _rank(rank: int, port: int, config: TrainConfig, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    ask = asking(call2=Ask.SAVE, call4=Ask.LEAVE) if rank == 1 else asking(call4=Ask.SAVE)
    outcome = train_here(config, store_in(Path(folder) / "run"), rank, 2, ask=ask)
    Path(folder, f"{rank}.txt").write_text(f"{outcome.left} {outcome.position.global_step}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_ranks_wish_is_done_by_all_at_the_same_step(tiny_set: str, tmp_path: Path) -> None:
    mp.spawn(_rank, args=(free_port(), config_for(tiny_set), str(tmp_path)), nprocs=2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["True 4", "True 4"]
    assert steps_saved(tmp_path / "run") == [2, 4]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are read as on a GPU: at the next one."""
    monkeypatch.setattr(verdict, "reads_late", lambda device: True)


def test_read_late_a_wish_is_done_a_step_later_and_once(late: None, tiny_set: str, tmp_path: Path) -> None:
    """As a saver asks: again and again until it is done. At an epoch's end everything is read."""
    ask = asking(call2=Ask.SAVE, call3=Ask.SAVE, call10=Ask.SAVE)
    train_here(config_for(tiny_set, log_steps=100), store_in(tmp_path, keep=9), ask=ask)
    assert steps_saved(tmp_path) == [3, 5, 10]


@pytest.mark.parametrize(("leave_at", "left_at"), [(1, 2), (4, 5), (5, 5), (7, 8)])
def test_read_late_a_run_leaves_a_step_later_and_goes_on_to_the_same_weights(
    late: None, tiny_set: str, tmp_path: Path, leave_at: int, left_at: int
) -> None:
    config = config_for(tiny_set, log_steps=100)
    train_here(config, store_in(tmp_path / "whole"))
    ask = asking(**{f"call{leave_at + (leave_at > 5)}": Ask.LEAVE})
    outcome = train_here(config, store_in(tmp_path / "left"), ask=ask)
    assert (outcome.left, outcome.position.global_step) == (True, left_at)
    train_here(config, store_in(tmp_path / "left"))
    weights, expected = final_weights(tmp_path / "left"), final_weights(tmp_path / "whole")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_wish_to_leave_that_is_read_for_a_checkpoint_is_heard_at_the_next_step(
    late: None, tiny_set: str, tmp_path: Path
) -> None:
    config = config_for(tiny_set, log_steps=100, checkpoint_steps=2)
    outcome = train_here(config, store_in(tmp_path, keep=9), ask=asking(call2=Ask.LEAVE))
    assert (outcome.left, outcome.position.global_step) == (True, 3)
    assert steps_saved(tmp_path) == [2, 3]


def test_read_late_a_step_that_explodes_is_named_itself_and_never_stored(
    late: None, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint would follow the third step, whose loss is infinite."""
    steps, keys = itertools.count(), {}
    plain = passes.supervised_loss

    def explode(outputs: object, *arguments: object) -> torch.Tensor:
        return plain(outputs, *arguments) * (float("inf") if next(steps) == 2 else 1)  # type: ignore[arg-type]

    put = verdict.Verdicts.put
    monkeypatch.setattr(verdict.Verdicts, "put", lambda self, n, at, k: keys.update({at: k[0]}) or put(self, n, at, k))
    monkeypatch.setattr(passes, "supervised_loss", explode)
    config = config_for(tiny_set, log_steps=100, checkpoint_steps=3)
    with pytest.raises(NotFiniteError, match=r"loss inf .* not finite at step 2, samples") as caught:
        train_here(config, store_in(tmp_path))
    assert keys[2] in str(caught.value)
    assert steps_saved(tmp_path) == []


def _late_rank(rank: int, port: int, config: TrainConfig, folder: str) -> None:
    verdict.reads_late = lambda device: True
    _rank(rank, port, config, folder)


@pytest.mark.slow
def test_read_late_one_ranks_wish_is_done_by_all_at_the_same_step(tiny_set: str, tmp_path: Path) -> None:
    mp.spawn(_late_rank, args=(free_port(), config_for(tiny_set, log_steps=100), str(tmp_path)), nprocs=2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["True 5", "True 5"]
    assert steps_saved(tmp_path / "run") == [3, 5]
