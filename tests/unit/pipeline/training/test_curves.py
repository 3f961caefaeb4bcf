"""What the loop gives the tracker: each name once a step, nothing old, and all of it before a checkpoint is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.models import ActionModel
from pipeline.storage import open_storage
from pipeline.tracking.journal import RunJournal, read_unsent
from tests.support.training_runs import Stop, store_in, train_here

pytestmark = pytest.mark.slow


class Recorder:
    """Keeps what it is given, and how much of it a flush has stored."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []
        self.flushed = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.points += [(name, step, value) for name, value in metrics.items()]

    def set_tags(self, tags: Mapping[str, str]) -> None:
        pass

    def flush(self) -> None:
        self.flushed = len(self.points)


def config_for(uri: str) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=2),
        clip=ClipConfig(num_frames=2, crop=16, resize=16, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, decoder="reference"),
        optim=OptimConfig(lr=1e-2, backbone_lr=1e-2, epochs=3),
        run=RunConfig(freeze_batchnorm=True, log_steps=2, checkpoint_steps=2),
    )


def validate(model: ActionModel, epoch: int) -> dict[str, float]:
    return {"val/top1_1x1": 0.25 * epoch}


def test_each_name_stands_once_at_a_step_and_a_validation_at_its_own_alone(tiny_set: str, tmp_path: Path) -> None:
    tracker = Recorder()
    train_here(config_for(tiny_set), store_in(tmp_path), validate=validate, tracker=tracker)
    places = Counter((name, step) for name, step, _ in tracker.points)
    assert [place for place, count in places.items() if count > 1] == []
    # 20 clips in batches of 4: five steps an epoch; a point every second step and at the end of an epoch.
    assert [step for name, step, _ in tracker.points if name == "train/loss"] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    scores = [(step, value) for name, step, value in tracker.points if name == "val/top1_1x1"]
    assert scores == [(5, 0.0), (10, 0.25), (15, 0.5)]


@pytest.mark.parametrize("stops", [(1,), (2, 3), (4, 1, 1)])
def test_a_run_that_dies_after_any_checkpoint_has_a_journal_without_a_gap(
    tiny_set: str, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    storage = open_storage(f"file://{tmp_path}")

    def attempt(stop_after: int) -> None:
        # Its thread never writes: what a killed process has not flushed is lost.
        train_here(
            config_for(tiny_set),
            store_in(tmp_path, stop_after),
            validate=validate,
            tracker=RunJournal(storage, 3600.0),
        )

    for stop in stops:
        with pytest.raises(Stop):
            attempt(stop)
    attempt(0)
    steps = [entry.step for _, _, entry in read_unsent(storage, {}) if "train/loss" in entry.curve]
    once = [step for number, step in enumerate(steps) if step > max(steps[:number], default=-1)]  # as they are sent
    assert once == [2, 4, 5, 6, 8, 10, 12, 14, 15]
