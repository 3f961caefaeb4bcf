"""The moving average of weights: closed forms, the plain run's weights step by step, resuming, and who is judged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.config.stop import StopConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import UserError
from pipeline.models import ActionModel, build_model
from pipeline.training.ema import TRAINED, JudgedWeights
from tests.support.training_runs import Stop, newest_in, store_in, train_here
from tests.unit.pipeline.training.test_loop import tiny_config

pytestmark = pytest.mark.slow

Weights = dict[str, torch.Tensor]


def averaging(config: TrainConfig, decay: float = 0.6) -> TrainConfig:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema_decay=decay))


def stored(folder: Path, name: str = "model.safetensors") -> Weights:
    with newest_in(folder) as files:
        return safetensors.torch.load_file(files / name)


def by_recurrence(weights: list[Weights], decay: float) -> Weights:
    """In float64, with a decay of min(decay, (1 + n) / (10 + n)) after n updates; the first one copies."""
    average = {name: value.double() for name, value in weights[0].items()}
    for n, current in enumerate(weights[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * current[name].double() for name in average}
    return average


@pytest.mark.parametrize(("decay", "steps"), [(0.1, 30), (0.18, 5)])
def test_a_constant_decay_has_a_closed_form(tiny_set: str, decay: float, steps: int) -> None:
    """Weights that are k at step k: d^(n-1) + (1 - d) sum of d^(n-k) k over k = 2..n."""
    config = tiny_config(tiny_set)
    model = build_model(config.model, num_classes=4, crop=32)
    judged = JudgedWeights(model, decay)
    for step in range(1, steps + 1):
        for tensor in model.state_dict().values():
            tensor.fill_(step)
        judged.update()
    expected = decay ** (steps - 1) + (1 - decay) * sum(decay ** (steps - k) * k for k in range(2, steps + 1))
    for name, value in judged.model.state_dict().items():
        if value.is_floating_point():  # parameters and running statistics
            assert value.flatten()[0].item() == pytest.approx(expected, rel=1e-5), name
        else:
            assert value.item() == steps, "a counter is copied"
    judged.finish()
    assert torch.equal(next(model.parameters()), next(judged.model.parameters()))


@pytest.mark.slow
def test_the_average_is_that_of_the_weights_of_a_run_without_one(tiny_set: str, tmp_path: Path) -> None:
    plain = tiny_config(tiny_set, checkpoint_steps=1, freeze_batchnorm=False)
    store = store_in(tmp_path / "plain", keep=99)
    train_here(plain, store)
    weights = []
    for entry in reversed(store.entries()):
        with store.fetch(entry.name) as files:
            weights.append(safetensors.torch.load_file(files / "model.safetensors"))
    assert len(weights) == 10
    train_here(averaging(plain), store_in(tmp_path / "average"))
    average, expected = stored(tmp_path / "average"), by_recurrence(weights, 0.6)
    moved = 0.0
    for name, value in stored(tmp_path / "average", TRAINED).items():
        assert torch.equal(value, weights[-1][name]), f"{name}: training does not see the average"
        if value.is_floating_point():
            torch.testing.assert_close(average[name].double(), expected[name], rtol=1e-5, atol=1e-6)
            moved = max(moved, (average[name] - value).abs().max().item())
    assert moved > 1e-3
    with newest_in(tmp_path / "plain") as files:
        assert not (files / TRAINED).exists()


@pytest.mark.slow
def test_stopped_and_resumed_the_average_is_the_same(tiny_set: str, tmp_path: Path) -> None:
    config = averaging(tiny_config(tiny_set, checkpoint_steps=1))
    train_here(config, store_in(tmp_path / "whole"))
    for stop in (1, 4):
        with pytest.raises(Stop):
            train_here(config, store_in(tmp_path / "broken", stop))
    train_here(config, store_in(tmp_path / "broken"))
    for name in ("model.safetensors", TRAINED):
        whole, broken = stored(tmp_path / "whole", name), stored(tmp_path / "broken", name)
        assert all(torch.equal(value, broken[key]) for key, value in whole.items()), name


def test_the_average_is_what_a_validation_sees_and_early_stopping_keeps(tiny_set: str, tmp_path: Path) -> None:
    config = averaging(tiny_config(tiny_set))
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, val_split="val"), stop=StopConfig(patience=5)
    )
    seen: list[Weights] = []

    def validate(model: ActionModel, epoch: int) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"val/loss_1x1": [1.0, 2.0][epoch], "val/top1_1x1": 0.0}

    train_here(config, store_in(tmp_path, keep=9), validate=validate)
    kept, trained = stored(tmp_path), stored(tmp_path, TRAINED)
    assert all(torch.equal(value, seen[0][name]) for name, value in kept.items()), "the better of two validations"
    assert not all(torch.equal(value, seen[1][name]) for name, value in trained.items())


def test_a_checkpoint_without_the_trained_weights_is_refused(tiny_set: str, tmp_path: Path) -> None:
    judged = JudgedWeights(build_model(tiny_config(tiny_set).model, num_classes=4, crop=32), 0.9)
    with pytest.raises(UserError, match=r"trained\.safetensors is not a file of weights.*; restore it, or train again"):
        judged.restore(tmp_path, 3)
