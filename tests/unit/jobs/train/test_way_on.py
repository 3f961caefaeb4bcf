"""What a failed training says about going on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ray.train.v2.api.exceptions import WorkerGroupError

from jobs.recipes import find_recipe
from jobs.train.driver import way_on
from pipeline.checkpoints.record import Position
from pipeline.checkpoints.store import CheckpointStore
from pipeline.errors import NotFiniteError, StorageError
from pipeline.storage import open_storage


def test_a_loss_that_is_not_finite_names_the_command_for_a_lower_rate(tmp_path: Path) -> None:
    run = open_storage(f"file://{tmp_path}/run")
    config = find_recipe("crn_demo")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, uri="s3://b/set"),
        optim=dataclasses.replace(config.optim, lr=0.04, backbone_lr=0.006),
    )
    error = WorkerGroupError("...", {1: NotFiniteError("loss nan is not finite at step 7")})
    assert way_on(error, config, run, CheckpointStore(run)) == (
        "the same command would end there again. As a new run with lower rates: the same command with --optim.lr 0.02"
        " --optim.backbone-lr 0.003 --run.run-id NEW"
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.safetensors").write_bytes(b"x")
    CheckpointStore(run).save(tmp_path / "files", Position(epoch=1, step=2, global_step=6), {})
    said = way_on(error, config, run, CheckpointStore(run))
    assert "with lower rates, from the last checkpoint: the same command with" in said
    assert f" --start-from {run.uri}/checkpoint_000000006 --optim.lr 0.02 " in said


def test_everything_else_goes_on_with_the_same_command(tmp_path: Path) -> None:
    run = open_storage(f"file://{tmp_path}/run")
    error = WorkerGroupError("...", {1: StorageError("503")})
    said = way_on(error, find_recipe("crn_demo"), run, CheckpointStore(run))
    assert said == "fix it and run the same command again to resume"
