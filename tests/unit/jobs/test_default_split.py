"""The split that is evaluated where none is named: Kinetics and Moments in Time have no labelled test videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.evaluate.command import default_split
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError
from pipeline.evaluation.report import evaluated_split
from pipeline.storage import open_storage
from tests.support.stored_set import clips_of, store_manifest, store_shard


def manifest_of(folder: Path, splits: Sequence[str]) -> Manifest:
    storage = open_storage(f"file://{folder}/{'-'.join(splits)}")
    clips = clips_of({f"{split}/shard-000000": 2 for split in splits})
    return store_manifest(
        storage, [store_shard(storage, folder, *path.split("/"), taken) for path, taken in clips.items()]
    )


def test_test_comes_before_val_and_train_is_never_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert default_split(manifest_of(tmp_path, ("train", "val", "test"))) == "test"
    assert caplog.text == ""
    assert default_split(manifest_of(tmp_path, ("train", "val"))) == "val"
    assert "the data set has no split test: evaluating on val" in caplog.text
    with pytest.raises(ConfigError, match=r"^split = '': the data set has no test and no val: name one of train$"):
        default_split(manifest_of(tmp_path, ("train",)))


def test_averages_and_promotions_take_the_split_that_was_evaluated(tmp_path: Path) -> None:
    run = open_storage(f"file://{tmp_path}/run")
    assert evaluated_split(run, "4x1") == "test", "what is missing is named"
    run.write("evaluations/val_4x1.json", b"{}")
    assert evaluated_split(run, "4x1") == "val"
    assert evaluated_split(run, "10x3") == "test"
    run.write("evaluations/test_4x1.json", b"{}")
    assert evaluated_split(run, "4x1") == "test"
