"""What is said of memory and checkpoints beforehand, against what they turn out to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.base import as_dict
from pipeline.config.data import ClipConfig
from pipeline.config.model import CRNConfig, MRSTConfig
from pipeline.config.stop import StopConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.models import build_model, freeze_batchnorm
from pipeline.training.checkpoint import Position, RunFacts, save_main
from pipeline.training.footprint import footprint, learning_norms
from pipeline.training.optim import build_optimizer, build_scheduler
from tests.support.memory import peak_growth_mb

CRN = CRNConfig(width=0.25, backbone_stages=3, hidden=32, adapted=32, num_steps=8)
MRST = MRSTConfig(blocks=(3, 3), mid=(16, 16), out=(32, 64), stem=32, lstm=32, num_steps=8)


def config_of(model: CRNConfig | MRSTConfig, crop: int = 64, **optim: Any) -> TrainConfig:
    clip = ClipConfig(num_frames=model.num_steps, crop=crop)
    return TrainConfig(model=model, clip=clip, optim=OptimConfig(**optim))


BEFORE = """
import json, sys, torch
from pipeline.config.train import config_from_dict
from pipeline.models import build_model
from pipeline.training.loss import supervised_loss
from pipeline.training.optim import build_optimizer
torch.set_num_threads(1)
config = config_from_dict(json.loads(sys.argv[1]))
crop = config.clip.crop

def step(clips):
    model = build_model(config.model, num_classes=5, crop=crop).train()
    optimizer = build_optimizer(model, config)
    inputs = {m: torch.randn(clips, model.num_steps, model.channels[m], crop, crop) for m in model.modalities}
    steps = model.draw_steps(torch.Generator().manual_seed(0))
    loss = supervised_loss(model(inputs, steps=steps), torch.zeros(clips, dtype=torch.int64), torch.ones(clips),
                           torch.tensor(1.0))
    loss.backward()
    optimizer.step()

step(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", [CRN, MRST], ids=["crn", "mrst"])
def test_memory_of_a_step_is_what_was_said(model: CRNConfig | MRSTConfig) -> None:
    """Against the peak of resident memory, less that of a step with one clip."""
    config, clips = config_of(model, crop=64), 25
    said = (footprint(config, 5, clips).activations - footprint(config, 5, 1).activations) / 2**20
    measured = peak_growth_mb(BEFORE, f"step({clips})", json.dumps(as_dict(config)))
    inputs = (clips - 1) * 8 * sum({"rgb": 3, "flow": 2}[m] for m in model.modalities) * 64 * 64 * 4 / 2**20
    print(f"said {said:.0f} MB, measured {measured - inputs:.0f} MB")
    assert said == pytest.approx(measured - inputs, rel=0.2)


@pytest.mark.parametrize("optim", [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "adam"}])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_checkpoint_is_as_large_as_said(optim: dict[str, Any], frozen: bool, tmp_path: Path) -> None:
    config = config_of(CRN, **optim)
    model = build_model(config.model, num_classes=5, crop=64)
    if frozen:
        config = TrainConfig(**{**vars(config), "run": RunConfig(freeze_batchnorm=True)})
        freeze_batchnorm(model)
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    facts = RunFacts(
        config=config, manifest_digest="d", dataset="s", classes=("a",), stored={}, code_version="v", run_id="r"
    )
    save_main(tmp_path, model, optimizer, build_scheduler(optimizer, config, 30), Position(), facts, {})
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    said = footprint(config, 5, 1)
    assert said.checkpoint == pytest.approx(size, rel=0.2)
    assert said.checkpoint < size, "names and numbers come on top of the tensors"
    assert learning_norms(config, 5) == (0 if frozen else 44, 44)


def test_what_is_kept_besides_the_weights_counts() -> None:
    plain = footprint(config_of(CRN), 5, 4)
    average = footprint(config_of(CRN, ema_decay=0.99), 5, 4)
    assert average.memory - plain.memory == average.checkpoint - plain.checkpoint == plain.weights
    stopping = TrainConfig(**{**vars(config_of(CRN)), "stop": StopConfig(patience=3)})
    assert footprint(stopping, 5, 4).checkpoint - plain.checkpoint == plain.weights
    assert footprint(config_of(CRN), 5, 8).activations == 2 * plain.activations
    half = footprint(config_of(CRN), 5, 4, bf16=True)
    assert half.activations == plain.activations // 2 + plain.gradients // 2


def test_recomputing_keeps_less() -> None:
    kept = footprint(config_of(MRST), 5, 4).activations
    config = config_of(MRSTConfig(**{**vars(MRST), "recompute": True}))
    assert footprint(config, 5, 4).activations < 0.7 * kept
