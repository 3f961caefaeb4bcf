"""A watched and measured training is the same training, and its page says where the time went."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import ray.util
import safetensors.torch
import torch

from jobs.train.observe import Observer
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from tests.support.training_runs import newest_in, store_in, train_here


class Page:
    def __init__(self) -> None:
        self.metrics: dict[str, dict[int, float]] = {}
        self.tags: dict[str, str] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, {})[step] = value

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags

    def flush(self) -> None:
        pass


def config_of(uri: str, output: Path) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=4),
        clip=ClipConfig(num_frames=4, crop=32, resize=32, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, val_split="", decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=2),
        run=RunConfig(run_id="r", output=f"file://{output}", log_steps=2),
    )


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    with newest_in(folder) as checkpoint:
        return safetensors.torch.load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_an_observed_run_has_the_same_weights_and_tells_of_its_time(
    tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    caplog.set_level(logging.INFO, "pipeline")
    config, page = config_of(tiny_set, tmp_path), Page()
    plain = dataclasses.replace(config, run=dataclasses.replace(config.run, step_timeout_s=0.0))
    train_here(plain, store_in(tmp_path / "plain"))

    began_s = time.time()
    observer = Observer(config, (began_s - 7.0, began_s - 3.0))

    def train() -> object:
        meter = observer.join(0, torch.device("cpu"), num_classes=4)
        observer.startup.mark("model")
        return train_here(config, store_in(tmp_path / "observed"), tracker=page, meter=meter)

    observer.watch(train)
    observed, alone = weights_in(tmp_path / "observed"), weights_in(tmp_path / "plain")
    assert observed.keys() == alone.keys()
    assert all(torch.equal(observed[name], alone[name]) for name in alone)

    steps = 10
    assert list(page.metrics["train/mfu"]) == [4, 5, 6, 8, 10]  # not at the first point, which comes before the count
    assert all(0 < value < 1.5 for value in page.metrics["train/mfu"].values())
    start = {
        name.removeprefix("start/"): points[steps] for name, points in page.metrics.items() if name[:6] == "start/"
    }
    assert list(start) == [
        f"{part}_s" for part in ("driver", "placement", "imports", "model", "checkpoint", "first_batch", "first_step")
    ]
    assert start["driver_s"] == pytest.approx(4.0)
    line = next(text for text in caplog.messages if text.startswith("the first step was done after "))
    assert float(line.split()[6]) == pytest.approx(sum(start.values()), abs=0.06)
    shares = [points[steps] for name, points in page.metrics.items() if name.startswith("time/") and "_share" in name]
    assert sum(shares) == pytest.approx(1.0)
    assert page.tags["bottleneck"].split("-bound")[0] in ("compute", "decode", "storage", "augment")
    assert page.metrics["time/checkpoint_s"][steps] > 0
