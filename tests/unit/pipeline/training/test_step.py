"""What one step draws: dropout by the clip's place, supervised steps by the step; both by the run's seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.data import DataConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.data.batch import Batch
from pipeline.models.dropout import ClipDropout
from pipeline.models.interface import ActionModel
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.passes import EagerPasses
from pipeline.training.step import Stepper, derived_seed

NUM_FEATURES = 4 * 3 * 8 * 8


class DropoutModel(ActionModel):
    """Logits are a linear function of the inputs behind dropout; keeps the masks and the steps that it was given."""

    modalities = ("rgb",)
    num_steps = 4
    channels: dict[str, int] = {"rgb": 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.head = ClipDropout(0.5), nn.Linear(NUM_FEATURES, 3)
        self.masks: list[Tensor] = []
        self.steps: list[tuple[int, ...]] = []

    def forward(self, inputs: Mapping[str, Tensor], steps: Sequence[int] | None = None) -> dict[str, Tensor]:
        assert steps is not None
        self.steps.append(tuple(steps))
        return self.scores(inputs, tuple(steps))

    def draw_steps(self, generator: torch.Generator) -> tuple[int, ...]:
        return (int(torch.randint(0, 1 << 30, (1,), generator=generator)), 1 << 30)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": [], "head": list(self.head.parameters())}

    def scores(self, inputs: Mapping[str, Tensor], steps: tuple[int, ...] | Tensor) -> dict[str, Tensor]:
        self.masks.append((self.dropout(torch.ones_like(inputs["rgb"])) > 0).detach())
        features = (inputs["rgb"] * self.masks[-1]).flatten(1)
        return {"rgb": self.head(features)[:, None]}


def batch_of(rows: int = 4, *, index: int = 0, count: int = 1, offset: int = 0) -> Batch:
    inputs = torch.randn(rows, 4, 3, 8, 8, generator=torch.Generator().manual_seed(offset))
    keys = tuple(f"k{offset + i}" for i in range(rows))
    return Batch(
        {"rgb": inputs}, torch.zeros(rows, dtype=torch.int64), torch.ones(rows), keys, 0, 0, index, count, offset
    )


def stepper_of(seed: int, **optim: Any) -> tuple[Stepper, DropoutModel]:
    config = TrainConfig(data=DataConfig(batch_size=8), optim=OptimConfig(**optim), run=RunConfig(seed=seed))
    torch.manual_seed(0)
    model = DropoutModel()
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, 10)
    passes = EagerPasses(model, config, torch.device("cpu"))
    return Stepper(passes, model, optimizer, scheduler, config, torch.device("cpu")), model


def draws(seed: int, global_step: int, offset: int = 0, rows: int = 4) -> tuple[Tensor, tuple[int, ...]]:
    stepper, model = stepper_of(seed)
    torch.manual_seed(99)  # whatever was drawn before
    stepper(batch_of(rows, offset=offset), global_step)
    return model.masks[0], model.steps[0]


def test_dropout_follows_from_seed_step_and_place_alone() -> None:
    mask = draws(seed=1, global_step=5)[0]
    assert torch.equal(mask, draws(seed=1, global_step=5)[0])
    for other in (draws(2, 5), draws(1, 6), draws(1, 5, offset=4)):
        share = (mask == other[0]).float().mean().item()
        assert share == pytest.approx(0.5, abs=0.06), "as two independent masks agree"
    assert not torch.equal(draws(seed=0, global_step=5)[0], mask)


def test_a_clip_drops_the_same_units_however_the_global_batch_is_split() -> None:
    whole = draws(seed=1, global_step=5, rows=8)[0]
    for rows in (1, 2, 3, 4):
        parts = [draws(1, 5, offset, rows)[0] for offset in range(0, 8, rows)]
        assert torch.equal(torch.cat(parts)[:8], whole), rows  # 3 + 3 + 3: the last one is a filler


def test_supervised_steps_follow_from_seed_and_step_and_are_equal_on_all_ranks() -> None:
    steps = draws(seed=1, global_step=5)[1]
    assert steps == draws(1, 5, offset=2)[1], "another rank or micro-batch of the same step"
    assert steps != draws(2, 5)[1]
    assert steps != draws(1, 6)[1]


def test_derived_seeds_fit_torchs_generator_and_differ_with_every_part() -> None:
    seeds = {derived_seed(*parts) for parts in [("a", 0, 1), ("a", 1, 0), ("a", 0, 1, 0), ("b", 0, 1), ("a", "0", 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_curves_are_means_over_the_steps_since_the_last_call() -> None:
    """Loss: mean of the steps' losses; top1: share of the clips; the sums start again after each call."""
    stepper, model = stepper_of(0, lr=1e-12, backbone_lr=1e-12, warmup_steps=0)
    model.dropout.p = 0.0
    losses, right = [], 0
    for step in range(2):
        batch = batch_of(offset=4 * step)
        with torch.no_grad():
            logits = model.head(batch.inputs["rgb"].flatten(1))
        losses.append(nn.functional.cross_entropy(logits, batch.labels).item())
        right += int((logits.argmax(1) == 0).sum())
        stepper(batch, step)
    means = stepper.sums.means()
    assert means["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert means["top1"] == right / 8
    assert means["grad_norm"] > 0
    assert stepper.sums.means() == {"loss": 0, "top1": 0, "grad_norm": 0}
