"""The MRST paper's fine-tuning rows: a fresh classifier leaves chance within the steps that the recipe takes."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from jobs.recipes import RECIPES, find_recipe
from pipeline.config.model import MRSTConfig
from pipeline.config.train import TrainConfig
from pipeline.data.sampling.order import num_steps
from pipeline.models import ActionModel, build_model
from pipeline.models.mrst.c3d import C3DNet
from pipeline.models.mrst.model import MRSTNet
from pipeline.models.transfer import classifier_names, load_run_weights
from pipeline.training.optim import build_optimizer, build_scheduler

ROWS = [name for name in RECIPES if name.startswith(("mrst_t2_ucf", "mrst_t2_hmdb", "mrst_t4"))]
SETS = {"ucf": (101, 9_537), "hmdb": (51, 3_570)}
"""Classes, and training videos of split 1: lines of trainlist01.txt; 70 of each class."""
CLASSIFIERS = {"resnet": {"fc.weight", "fc.bias"}, "c3d": {"fc8.weight", "fc8.bias"}}
WIDTH = 64  # of what the classifier reads
LEARNED, NEAR_CHANCE = 0.8, 0.12  # chance is 0.01 and 0.02


def shrunk(name: str) -> TrainConfig:
    """The recipe with a tiny network of its own kind; its training section is untouched."""
    config = find_recipe(name)
    assert isinstance(config.model, MRSTConfig)
    sizes = {"blocks": (1, 1), "mid": (4, 4), "out": (6, 8), "stem": 4, "lstm": WIDTH, "num_steps": 8}
    model = dataclasses.replace(config.model, **sizes, c3d_out=(4, 4, 4, 4, 8, 8, 8, 8), c3d_fc=WIDTH)
    return dataclasses.replace(
        config, model=model, clip=dataclasses.replace(config.clip, num_frames=8, crop=16, resize=16)
    )


def started(config: TrainConfig, num_classes: int) -> ActionModel:
    """A model with the weights of a network of 400 other classes and a fresh classifier, as --start-from gives it."""
    torch.manual_seed(0)
    build = functools.partial(build_model, config.model, crop=config.clip.crop)
    pretrained, model = build(num_classes=400), build(num_classes=num_classes)
    load_run_weights(model, pretrained.state_dict(), fresh=classifier_names(config.model, crop=config.clip.crop))
    return model


def features(layout: str, num_classes: int, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """What a well trained network gives its classifier: a point a class and little around it, in the range of an
    LSTM's mean state or of a ReLU; and the labels.
    """
    around = torch.Generator().manual_seed(seed)
    points = torch.randn(num_classes, WIDTH, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(num_classes).repeat(per_class)
    found = points[labels] + 0.1 * torch.randn(len(labels), WIDTH, generator=around)
    return (found.tanh() if layout == "resnet" else found.relu()), labels


def accuracy_after(name: str, multiplier: float | None = None) -> tuple[float, int]:
    """Train the classifier alone by the recipe, for as many steps as the recipe takes or until it has learned.

    Everything in front of it hardly moves at 1e-5: its output is drawn once.

    Returns:
        Top-1 on other samples, and the steps taken.
    """
    config = shrunk(name)
    if multiplier is not None:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, classifier_multiplier=multiplier))
    assert isinstance(config.model, MRSTConfig)
    num_classes, num_videos = SETS[name.split("_")[2]]
    model = started(config, num_classes).train()
    assert isinstance(model, MRSTNet | C3DNet)
    classifier = model.fc if isinstance(model, MRSTNet) else model.fc8
    seen, labels = features(config.model.layout, num_classes, 8, seed=1)
    unseen, answers = features(config.model.layout, num_classes, 8, seed=2)
    per_epoch = num_steps(num_videos, config.data.batch_size)
    total = per_epoch * config.optim.epochs
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, total)
    accuracy, draw = 0.0, torch.Generator().manual_seed(3)
    for step in range(1, total + 1):
        batch = torch.randint(len(labels), (config.data.batch_size,), generator=draw)
        loss = torch.nn.functional.cross_entropy(classifier(model.dropout(seen[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % per_epoch == 0:
            accuracy = (classifier(unseen).argmax(1) == answers).float().mean().item()
            if accuracy > LEARNED:
                return accuracy, step
    return accuracy, total


def test_steps_are_those_of_the_data_sets() -> None:
    assert len(ROWS) == 14
    assert (num_steps(9_537, 64), num_steps(3_570, 64)) == (150, 56)


@pytest.mark.parametrize("name", [pytest.param(row, marks=pytest.mark.slow if "_ucf" in row else ()) for row in ROWS])
def test_a_fresh_classifier_learns_within_the_recipes_own_steps(name: str) -> None:
    accuracy, _ = accuracy_after(name)
    assert accuracy > LEARNED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mrst_t4_hmdb", "mrst_t2_hmdb_t", "mrst_t2_ucf_c3d"])
def test_at_the_papers_own_rate_it_stays_near_chance(name: str) -> None:
    accuracy, steps = accuracy_after(name, multiplier=1.0)
    assert steps == {"hmdb": 3_360, "ucf": 9_000}[name.split("_")[2]]
    assert accuracy < NEAR_CHANCE


@pytest.mark.parametrize("name", ROWS)
def test_the_classifier_alone_moves_a_hundred_times_as_far(name: str) -> None:
    """Steps of the whole model: the first moves each weight by its rate times (gradient + L2), written out here."""
    config = shrunk(name)
    assert isinstance(config.model, MRSTConfig)
    num_classes, model = 5, started(config, 5).train()
    ours = CLASSIFIERS[config.model.layout]
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, 9_000)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert {name: rates[id(p)] for name, p in named.items()} == {
        name: pytest.approx(1e-3 if name in ours else 1e-5, rel=1e-12) for name in named
    }
    for step in range(3):
        clips = torch.randn(4, 8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        before = {name: p.detach().clone() for name, p in named.items()}
        scores = model({"rgb": clips})["rgb"][:, 0]
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(4) % num_classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        assert loss.isfinite()
        for name, p in named.items():
            assert p.grad is not None
            if step == 0:
                rate = 1e-3 if name in ours else 1e-5
                expected = before[name].double() - rate * (p.grad.double() + 5e-4 * before[name].double())
                torch.testing.assert_close(p.detach().double(), expected, rtol=1e-6, atol=1e-7)
