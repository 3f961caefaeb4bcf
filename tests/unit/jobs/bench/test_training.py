"""jobs.bench training: its bare loop does what a run does, and what it says of figures follows from them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import safetensors.torch

from jobs.bench.training import metering
from jobs.bench.training.bare import BareLoop, weights_digest
from jobs.bench.training.command import missed, run
from jobs.bench.training.metering import metering_cost_s
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.errors import ConfigError
from tests.support.training_runs import newest_in, store_in, train_here


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_the_bare_loop_ends_with_the_weights_of_a_run(tiny_set: str, tmp_path: Path, freeze: bool) -> None:
    config = TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4, dropout=0.2),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=tiny_set, batch_size=4, val_split=""),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=2, warmup_steps=2, schedule="cosine", clip_norm=1.0),
        run=RunConfig(freeze_batchnorm=freeze, checkpoint_epochs=2),
    )
    train_here(config, store_in(tmp_path))
    bare = BareLoop(config, steps=5)
    assert all(bare.run_epoch(epoch) > 0 for epoch in range(2))
    with newest_in(tmp_path) as folder:
        found = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights_digest(found) == weights_digest(bare.model.state_dict())


def test_metering_costs_something_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "RankMetrics", lambda run, rank: lambda values: time.sleep(0.002))
    assert metering_cost_s(10, steps=100, rounds=1) > 0.0002  # a point of a curve every ten steps


def test_too_much_overhead_and_other_weights_are_named() -> None:
    assert missed({"overhead": 0.05, "same_weights": True}) == []
    assert missed({"overhead": 0.051, "same_weights": False}) == [
        "the run and the bare loop end with different weights",
        "overhead 0.051 is above 0.05",
    ]


@pytest.mark.parametrize(("words", "field"), [(["--steps", "0"], "steps"), (["--rounds", "0"], "rounds")])
def test_what_measures_nothing_is_refused(tmp_path: Path, words: list[str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(["--data", "file:///nowhere", "--json", str(tmp_path / "x.json"), *words])
    assert field in str(caught.value)
