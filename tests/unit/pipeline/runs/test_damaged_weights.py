"""A byte of a checkpoint's weights that has changed is noticed by everything that loads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jobs.evaluate.worker import evaluate_rank
from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.errors import UserError
from pipeline.runs.folder import RESULT, fetched_checkpoint, read_run
from pipeline.runs.registered import final_weights
from pipeline.runs.start_weights import find_start
from pipeline.storage import Storage, open_storage
from pipeline.training.checkpoint import WEIGHTS
from tests.support.finished_run import CHECKPOINT, finished_run

pytestmark = pytest.mark.slow

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def run(tmp_path: Path, tiny_set: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A finished run whose last checkpoint has a list of files, as today's code writes it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = open_storage(finished_run(tmp_path / "run", tiny_set))
    name = CheckpointStore(run).save(tmp_path / "run" / CHECKPOINT, Position(global_step=5), {})
    run.write(RESULT, json.dumps({**json.loads(run.read(RESULT)), "checkpoint": name}).encode())
    for path in list(run.list(f"{CHECKPOINT}/")):
        run.delete(path)
    return run


def _evaluate(run: Storage) -> None:
    evaluate_rank(run.uri, _last(run), read_run(run).train_config(), "test", 1, 1, 0, 1, False)


def _start(run: Storage) -> None:
    config = read_run(run).train_config()
    find_start(dataclasses.replace(config, start_from=run.uri), CLASSES)


def _register(run: Storage) -> None:
    with fetched_checkpoint(run, _last(run)):  # what jobs.promote packs
        pass


LOADERS: dict[str, Callable[[Storage], object]] = {
    "evaluate": _evaluate,
    "start_from": _start,
    "register": _register,
    "predict": final_weights,
}


def _last(run: Storage) -> str:
    return json.loads(run.read(RESULT))["checkpoint"]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_flipped_bit_is_noticed_and_the_file_named(run: Storage, loader: str) -> None:
    LOADERS[loader](run)
    path = f"{_last(run)}/{WEIGHTS}"
    data = run.read(path)
    before = safetensors.torch.load(data)
    changed = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    after = safetensors.torch.load(changed)  # the format itself notices nothing
    assert not all(torch.equal(before[name], after[name]) for name in before)
    run.write(path, changed)
    with pytest.raises(UserError, match=rf"{run.uri}/{path} has other bytes than were written") as error:
        LOADERS[loader](run)
    assert "\n" not in str(error.value)
    run.write(path, data[:-5])
    with pytest.raises(UserError, match=rf"{run.uri}/{path} has {len(data) - 5} bytes and was written with"):
        LOADERS[loader](run)
    run.delete(path)
    with pytest.raises(UserError, match=rf"{run.uri}/{path} is missing"):
        LOADERS[loader](run)
    listed = f"{_last(run)}/files.json"
    sound = run.read(listed)
    for damaged in (sound.replace(b"size", b"sizf", 1), sound[:-30]):
        run.write(listed, damaged)
        with pytest.raises(UserError, match=rf"{run.uri}/{listed}.*: restore it, or use another checkpoint") as error:
            LOADERS[loader](run)
        assert "\n" not in str(error.value)
    run.delete(listed)
    with pytest.raises(UserError, match=r"files\.json is missing: it is half a checkpoint"):
        LOADERS[loader](run)
