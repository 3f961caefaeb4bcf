"""Learning rates and L2 of every parameter against groups made by hand; schedules against torch's own."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from jobs.recipes import RECIPES, find_recipe
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.train import OptimConfig, TrainConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.interface import ActionModel
from pipeline.training.optim import build_optimizer, build_scheduler, lay_out_state

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def config_of(batch: int = 8, model: CRNConfig | MRSTConfig | None = None, **optim: Any) -> TrainConfig:
    model = model or CRNConfig(width=0.25, backbone_stages=3, hidden=8, adapted=8, num_steps=4)
    clip = ClipConfig(num_frames=model.num_steps, crop=64, stack=getattr(model, "stack", 1))
    return TrainConfig(model=model, clip=clip, data=DataConfig(batch_size=batch), optim=OptimConfig(**optim))


def model_of(config: TrainConfig) -> ActionModel:
    with torch.device("meta"):
        return build_model(config.model, num_classes=5, crop=config.clip.crop)


def rates(config: TrainConfig, total_steps: int) -> list[float]:
    """The last group's rate at each step."""
    optimizer = build_optimizer(model_of(config), config)
    scheduler = build_scheduler(optimizer, config, total_steps)
    found = []
    for _ in range(total_steps):
        found.append(scheduler.get_last_lr()[-1])
        optimizer.step()
        scheduler.step()
    return found


def rates_of_torch(make: Any, lr: float, total_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(total_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_step_decay_is_torchs_multi_step_schedule() -> None:
    config = config_of(lr=0.02, epochs=50, schedule="step", decay_epochs=(20, 40))  # as TSM trains on Kinetics
    expected = rates_of_torch(lambda o: lr_scheduler.MultiStepLR(o, [140, 280], 0.1), 0.02, 350)
    assert rates(config, 350) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("batch", "factor"), [(256, 2.0), (128, 1.0), (64, 0.5)])
def test_rates_follow_the_batch_in_proportion(batch: int, factor: float) -> None:
    config = config_of(batch, lr=0.02, backbone_lr=0.01, reference_batch=128, epochs=10)
    found = {g["name"]: g["lr"] for g in build_optimizer(model_of(config), config).param_groups}
    assert found == {"backbone": 0.01 * factor, "head": 0.02 * factor}


def test_warm_up_to_scaled_rates_is_torchs_linear_one_from_the_unscaled_rate() -> None:
    """16 times the batch, 5 of 40 epochs of 6 steps."""
    config = config_of(1024, lr=0.1, reference_batch=64, epochs=40)
    expected = rates_of_torch(lambda o: lr_scheduler.LinearLR(o, 1 / 16, total_iters=30), 1.6, 240)
    found = rates(config, 240)
    assert found == pytest.approx(expected, rel=1e-9)
    assert (found[0], found[30]) == (pytest.approx(0.1), 1.6)


@pytest.mark.parametrize(
    ("optim", "steps"),
    [
        ({"epochs": 10}, 20),
        ({"epochs": 100}, 50),
        ({"epochs": 10, "warmup_steps": 3}, 3),
        ({"epochs": 10, "warmup_epochs": 1.25}, 13),
        ({"epochs": 60, "schedule": "step", "decay_epochs": (4, 50)}, 40),
        ({"epochs": 100, "reference_batch": 0}, 0),
        ({"epochs": 100, "reference_batch": 512}, 0),
        ({"epochs": 100, "reference_batch": 1024, "warmup_epochs": 2}, 20),
    ],
)
def test_length_of_the_warm_up(optim: dict[str, Any], steps: int) -> None:
    assert OptimConfig(**{"reference_batch": 64, **optim}).warmup(512, 10) == steps


def test_a_warm_up_in_epochs_is_the_one_in_steps() -> None:
    other = {"lr": 0.1, "epochs": 4, "schedule": "cosine"}
    assert rates(config_of(warmup_epochs=1.5, **other), 40) == rates(config_of(warmup_steps=15, **other), 40)


@pytest.mark.parametrize("recipe", [*RECIPES][::9])
def test_without_the_new_fields_groups_are_those_of_the_papers(recipe: str) -> None:
    config = find_recipe(recipe)
    model = model_of(config)
    groups = build_optimizer(model, config).param_groups
    expected = {name: params for name, params in model.parameter_groups().items() if params}
    assert [group["name"] for group in groups] == list(expected)
    for group in groups:
        assert [id(p) for p in group["params"]] == [id(p) for p in expected[group["name"]]]
        assert group["lr"] == {"backbone": config.optim.backbone_lr, "head": config.optim.lr}[group["name"]]
        assert group["weight_decay"] == config.optim.weight_decay


def expected_of(model: ActionModel, config: TrainConfig) -> dict[str, tuple[float, float]]:
    """(learning rate, L2) by name, by the type of the module that a parameter belongs to."""
    optim, found = config.optim, {}
    backbone = {id(p) for p in model.parameter_groups()["backbone"]}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            lr = optim.backbone_lr if id(parameter) in backbone else optim.lr
            if isinstance(module, nn.Linear) and module.out_features == 5:
                lr *= optim.classifier_multiplier
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels in FIRST_CHANNELS[config.model.kind]:
                lr *= optim.first_conv_multiplier
            bare = isinstance(module, NORMS) or "bias" in name.rsplit(".", 1)[-1]
            found[name] = (lr, 0.0 if bare else optim.weight_decay)
    return found


FIRST_CHANNELS = {"crn": {10}, "mrst": {3}}  # five stacked flows, not the three of RGB; the only branch's, which is RGB


@pytest.mark.parametrize(
    "model",
    [
        CRNConfig(width=0.25, backbone_stages=3, hidden=8, adapted=8, num_steps=4, stack=5),
        CRNConfig(
            width=0.25, backbone_stages=3, hidden=8, num_steps=4, stack=5, partner="off", rib="none", fusion="late"
        ),
        CRNConfig(backbone="inceptionv3", width=0.25, hidden=8, num_steps=4, stack=5),
        MRSTConfig(blocks=(1, 1), mid=(8, 8), out=(8, 16), stem=8, lstm=8, num_steps=8),
        MRSTConfig(layout="c3d", unit="C3D", c3d_out=(4, 4, 8, 8, 8, 8, 8, 8), c3d_fc=7, num_steps=8),
    ],
    ids=["crn", "late fusion", "inception v3", "mrst", "c3d"],
)
def test_groups_are_those_that_a_person_would_make(model: CRNConfig | MRSTConfig) -> None:
    config = config_of(
        model=model, weight_decay_on="weights", classifier_multiplier=5, first_conv_multiplier=3, weight_decay=0.01
    )
    if model.kind == "crn" and model.backbone == "inceptionv3":
        config = dataclasses.replace(config, clip=dataclasses.replace(config.clip, crop=96))
    net = model_of(config)
    optimizer = build_optimizer(net, config)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert found == expected_of(net, config)
    assert len({lr for lr, _ in found.values()}) >= 3
    assert (optimizer.param_groups[-1]["name"], optimizer.param_groups[-1]["lr"]) == ("head", config.optim.lr)


def test_one_step_moves_as_an_optimiser_with_groups_made_by_hand() -> None:
    model = MRSTConfig(blocks=(1,), mid=(4,), out=(4,), stem=4, lstm=4, num_steps=2)
    config = config_of(model=model, weight_decay_on="weights", classifier_multiplier=5, weight_decay=0.1, lr=0.5)
    torch.manual_seed(0)
    ours = build_model(config.model, num_classes=5, crop=64)
    torch.manual_seed(0)
    twin = build_model(config.model, num_classes=5, crop=64)
    rules = expected_of(twin, config)
    by_hand = torch.optim.SGD(
        [{"params": [p], "lr": rules[n][0], "weight_decay": rules[n][1]} for n, p in twin.named_parameters()],
        momentum=0.9,
    )
    optimizer = build_optimizer(ours, config)
    for _ in range(3):
        for net in (ours, twin):
            for number, parameter in enumerate(net.parameters()):
                parameter.grad = torch.full_like(parameter, 0.01 * number)
        optimizer.step()
        by_hand.step()
    for (name, parameter), other in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"schedule": "step"}, r"optim\.decay_epochs = \(\): schedule step needs the epochs"),
        ({"decay_epochs": (3,)}, r"optim\.decay_epochs = \(3,\): schedule constant has none: use optim\.schedule step"),
        ({"schedule": "step", "decay_epochs": (20, 20)}, r"optim\.decay_epochs .*ascending and within 1\.\.29"),
        ({"schedule": "step", "decay_epochs": (20, 30)}, r"within 1\.\.29, since the run has 30 epochs"),
        ({"schedule": "step", "decay_epochs": (2,), "decay_factor": 1.0}, r"optim\.decay_factor = 1\.0: must be in"),
        (
            {"schedule": "step", "decay_epochs": (2,), "warmup_epochs": 3},
            r"warmup_epochs = 3: must end before .* epoch 2",
        ),
        ({"warmup_epochs": 1, "warmup_steps": 5}, r"optim\.warmup_epochs = 1: .* or optim\.warmup_steps = 5"),
        ({"warmup_epochs": 30}, r"optim\.warmup_epochs = 30: must be less than the 30 epochs"),
        ({"reference_batch": -1}, r"optim\.reference_batch = -1: must be 0 \(off\) or more"),
        ({"classifier_multiplier": 0.0}, r"optim\.classifier_multiplier = 0\.0: must be positive"),
        ({"ema_decay": 1.0}, r"optim\.ema_decay = 1\.0: must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(optim: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**optim)


@pytest.mark.parametrize("fused", [True, False])
def test_averages_of_a_checkpoint_lie_as_the_weights_do(fused: bool) -> None:
    """Adam goes on, whatever order the weights have now, and as from averages that always lay so."""
    torch.manual_seed(0)
    made: list[tuple[torch.nn.Conv2d, torch.optim.Adam]] = []
    for _ in range(2):
        layer = torch.nn.Conv2d(4, 6, 3)
        made.append((layer, torch.optim.Adam(layer.parameters(), lr=0.1, fused=fused)))
    (plain, before), (last, after) = made
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 8, 8)

    def step(layer: torch.nn.Conv2d, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    step(plain, before)
    step(last, after)
    after.load_state_dict(copy.deepcopy(before.state_dict()))  # it would share the counts of steps
    assert after.state[last.weight]["exp_avg"].stride() != last.weight.stride()
    lay_out_state(after)
    assert after.state[last.weight]["exp_avg"].stride() == last.weight.stride()
    assert torch.equal(after.state[last.weight]["exp_avg"], before.state[plain.weight]["exp_avg"])
    step(plain, before)
    step(last, after)
    torch.testing.assert_close(last.weight, plain.weight, rtol=0, atol=1e-5)
