"""What jobs.train says before any worker starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jobs.train import command
from pipeline.errors import ConfigError


class Reached(Exception):
    """The command would start workers now."""


def reached(*_: object) -> None:
    raise Reached


def test_short_videos_are_announced_before_any_worker(
    tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobs.train.driver.connect", reached)
    common = ["crn_demo", "--data.uri", tiny_set, "--clip.stride", "2", "--clip.crop", "24", "--clip.resize", "28"]
    for number, (args, end) in enumerate(
        (
            (
                [],
                "repeated; train with --clip.stride 1 (9 frames, 0 too short) or --clip.short-videos stretch",
            ),
            (["--clip.short-videos", "stretch"], "the frames of a clip are taken closer together"),
        )
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(Reached):
            command.main([*common, *args, "--run.output", f"file://{tmp_path}/{number}"])
        (train, val) = [r.getMessage() for r in caplog.records if "shorter" in r.getMessage()]
        assert train.startswith("20 of 20 videos in split 'train' are shorter than the 16 frames that a clip covers")
        assert val.startswith("8 of 8 videos in split 'val' ")
        assert train.endswith(end)


def test_ranks_that_find_no_gpu_cannot_join_their_batch_statistics(
    tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where run.use_gpu is auto, only the cluster says so: still before any worker."""

    monkeypatch.setattr("jobs.train.driver.connect", lambda: None)
    monkeypatch.setattr("jobs.train.driver.wants_gpu", lambda _: False)
    monkeypatch.setattr("jobs.train.driver.wait_for_ranks", reached)
    args = ["crn_demo", "--data.uri", tiny_set, "--clip.crop", "24", "--clip.resize", "28", "--run.sync-batchnorm"]
    with pytest.raises(ConfigError, match=r"run\.sync_batchnorm = True: ranks without a GPU cannot"):
        command.main([*args, "--run.output", f"file://{tmp_path}/two"])
    with pytest.raises(Reached):
        command.main([*args, "--run.output", f"file://{tmp_path}/one", "--run.num-workers", "1"])


def test_too_few_clips_for_batch_statistics_are_announced_before_any_worker(
    tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobs.train.driver.connect", reached)
    args = ["crn_demo", "--data.uri", tiny_set, "--clip.crop", "24", "--clip.resize", "28", "--run.num-workers", "8"]
    with caplog.at_level(logging.WARNING), pytest.raises(Reached):
        command.main([*args, "--run.output", f"file://{tmp_path}"])
    (line,) = [r.getMessage() for r in caplog.records if "batch normalisation" in r.getMessage()]
    assert line.startswith("batch normalisation learns from 2 clips at a time on each rank (44 of 44 layers)")
