from __future__ import annotations

import math

import pytest
import torch

from pipeline.config.train import OptimConfig, TrainConfig
from pipeline.models.interface import ClipModel
from pipeline.training.loss import supervised_loss
from pipeline.training.optim import build_optimizer, build_scheduler, lr_factor


class Groups(ClipModel):
    """Nothing but parameters in two groups."""

    modalities = ()

    def __init__(self, **groups: list[torch.nn.Parameter]) -> None:
        super().__init__()
        self._groups = groups

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return self._groups

    def scores(self, inputs: object, steps: object) -> dict[str, torch.Tensor]:
        raise NotImplementedError


def test_loss_is_the_sum_over_branches_and_steps_of_the_weighted_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(3, 2, 4, generator=generator, dtype=torch.float64).float() for name in ("rgb", "flow")}
    labels, weights = torch.tensor([0, 3, 1]), torch.tensor([1.0, 0.0, 1.0])
    expected = 0.0
    for logits in outputs.values():
        for b in range(3):
            for s in range(2):
                scores = logits[b, s].double()
                expected += weights[b].item() * (
                    math.log(sum(math.exp(x) for x in scores.tolist())) - scores[labels[b]].item()
                )
    loss = supervised_loss(outputs, labels, weights, weights.sum())
    assert loss.item() == pytest.approx(expected / 2, rel=1e-6)


def test_a_clip_of_weight_zero_has_no_influence_even_if_it_is_infinite() -> None:
    logits = torch.tensor([[[1.0, 2.0]], [[float("inf"), 0.0]]], requires_grad=True)
    loss = supervised_loss({"rgb": logits}, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]), torch.tensor(1.0))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad[0]).all()


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_mix_the_label_with_all_classes_alike(smoothing: float) -> None:
    """Szegedy et al. 2016, section 7: q' = (1 - e) [k = y] + e / K; the loss is the cross-entropy with q'."""
    logits = torch.tensor([[[1.0, -0.5, 2.0]], [[0.0, 3.0, -1.0]]])
    labels, weights = torch.tensor([2, 0]), torch.tensor([1.0, 0.5])
    expected = 0.0
    for b in range(2):
        scores = logits[b, 0].tolist()
        norm = math.log(sum(math.exp(x) for x in scores))
        target = [(1 - smoothing) * (k == labels[b].item()) + smoothing / 3 for k in range(3)]
        expected -= weights[b].item() * sum(q * (x - norm) for q, x in zip(target, scores, strict=True))
    loss = supervised_loss({"rgb": logits}, labels, weights, torch.tensor(4.0), smoothing)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-6)


@pytest.mark.parametrize("total", [0.25, 1.0, 3.0])
def test_the_sum_is_divided_by_the_weight_of_the_whole_batch_however_small(total: float) -> None:
    logits, labels = torch.zeros(1, 1, 4), torch.tensor([1])
    loss = supervised_loss({"rgb": logits}, labels, torch.tensor([0.25]), torch.tensor(total))
    assert loss.item() == pytest.approx(0.25 * math.log(4) / total, rel=1e-6)


def test_a_batch_of_fillers_costs_nothing() -> None:
    logits = torch.randn(2, 1, 3, requires_grad=True)
    loss = supervised_loss({"rgb": logits}, torch.zeros(2, dtype=torch.long), torch.zeros(2), torch.tensor(0.0))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_schedule_closed_form() -> None:
    config = TrainConfig(optim=OptimConfig(warmup_steps=4, schedule="cosine"))
    assert [lr_factor(config, 104, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_factor(config, 104, 4) == 1.0
    assert lr_factor(config, 104, 103) == pytest.approx(0.01)
    assert lr_factor(config, 105, 4 + 50) == pytest.approx(0.01 + 0.99 / 2)
    assert lr_factor(TrainConfig(), 30, 9) == 1.0


def test_groups_get_their_learning_rates() -> None:
    backbone, head = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    model = Groups(backbone=[backbone], head=[head])
    optimizer = build_optimizer(model, TrainConfig(optim=OptimConfig(lr=1e-2, backbone_lr=1e-3)))
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == {"backbone": 1e-3, "head": 1e-2}
    adam = TrainConfig(optim=OptimConfig(name="adam"))
    assert len(build_optimizer(Groups(backbone=[], head=[head]), adam).param_groups) == 1


def test_optimiser_and_scheduler_of_a_stored_checkpoint_continue_exactly() -> None:
    """The literal states were saved after 4 of 7 steps by the first version of this code; numbers are its numbers."""
    saved_optimizer = {
        "state": {
            0: {"momentum_buffer": torch.tensor([9.049, 9.049])},
            1: {"momentum_buffer": torch.tensor([9.049])},
        },
        "param_groups": [
            {
                "lr": lr,
                "name": name,
                "momentum": 0.9,
                "dampening": 0,
                "weight_decay": 0.0,
                "nesterov": False,
                "maximize": False,
                "foreach": None,
                "differentiable": False,
                "fused": None,
                "initial_lr": initial_lr,
                "params": [number],
            }
            for number, (name, initial_lr, lr) in enumerate(
                [("backbone", 0.25, 0.20340686298001828), ("head", 0.5, 0.40681372596003657)]
            )
        ],
    }
    saved_scheduler = {
        "base_lrs": [0.25, 0.5],
        "last_epoch": 4,
        "_step_count": 5,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [0.20340686298001828, 0.40681372596003657],
        "lr_lambdas": [None, None],
    }
    groups = {
        "backbone": [torch.nn.Parameter(torch.tensor([-3.40385365486145, -2.40385365486145]))],
        "head": [torch.nn.Parameter(torch.tensor([-5.8077073097229]))],
    }
    optim = OptimConfig(lr=0.5, backbone_lr=0.25, warmup_steps=2, schedule="cosine", weight_decay=0.0)
    config = TrainConfig(optim=optim)
    optimizer = build_optimizer(Groups(**groups), config)
    scheduler = build_scheduler(optimizer, config, 10)
    optimizer.load_state_dict(saved_optimizer)
    scheduler.load_state_dict(saved_scheduler)
    parameters = [p for group in groups.values() for p in group]
    for step in range(4, 7):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter) * (step + 1)
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.049093137019981734, 0.09818627403996347]
    found = torch.cat([p.detach() for p in parameters])
    torch.testing.assert_close(found, torch.tensor([-11.094439506530762, -10.094439506530762, -21.188879013061523]))
