"""A damaged newest checkpoint costs some steps, never the run and never its weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.model import CRNConfig
from pipeline.config.train import OptimConfig, RunConfig, TrainConfig
from pipeline.training.checkpoint import read_samples
from tests.support.training_runs import Stop, newest_in, store_in, train_here

pytestmark = pytest.mark.slow

Weights = dict[str, torch.Tensor]


def config_for(uri: str, **run: object) -> TrainConfig:
    return TrainConfig(
        model=CRNConfig(width=0.125, backbone_stages=3, hidden=8, adapted=8, num_steps=2),
        clip=ClipConfig(num_frames=2, crop=16, resize=16, flow_std=2.0),
        data=DataConfig(uri=uri, batch_size=4, val_split="", decoder="reference"),
        optim=OptimConfig(name="adam", lr=1e-2, backbone_lr=1e-2, epochs=1),
        run=RunConfig(**{"log_samples": True, "checkpoint_steps": 1, **run}),
    )


def ended(folder: Path) -> tuple[Weights, list[str]]:
    with newest_in(folder) as files:
        return safetensors.torch.load_file(files / "model.safetensors"), read_samples(files)


def check_ended(folder: Path, undisturbed: tuple[Weights, list[str]]) -> None:
    """The run in that folder has the weights and the keys of the undisturbed one."""
    weights, keys = ended(folder)
    for name, tensor in undisturbed[0].items():
        assert torch.equal(weights[name], tensor), name
    assert keys == undisturbed[1]


@pytest.fixture(scope="module")
def undisturbed(tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    train_here(config_for(tiny_set), store_in(folder))
    return ended(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("how", ["flipped byte", "truncated", "missing"])
def test_the_one_before_is_taken_and_the_run_ends_with_the_right_weights(
    tiny_set: str,
    tmp_path: Path,
    undisturbed: tuple[Weights, list[str]],
    caplog: pytest.LogCaptureFixture,
    file: str,
    how: str,
) -> None:
    with pytest.raises(Stop):
        train_here(config_for(tiny_set), store_in(tmp_path, stop_after=3))
    path = tmp_path / "checkpoint_000000003" / file
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:  # where the tensors' bytes are, which nothing but a checksum looks at
        path.write_bytes(data[:-2000] + bytes([data[-2000] ^ 64]) + data[-1999:])
    caplog.set_level(logging.INFO)
    train_here(config_for(tiny_set), store_in(tmp_path))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"file://{path} ")
    assert "the one before it taken" in warning
    assert "resuming at epoch 0, step 2 of 5" in caplog.text
    check_ended(tmp_path, undisturbed)


@pytest.mark.parametrize("how", ["flipped byte", "truncated", "missing"])
def test_a_list_of_files_that_is_damaged_or_missing_costs_a_step(
    tiny_set: str,
    tmp_path: Path,
    undisturbed: tuple[Weights, list[str]],
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """One that is missing looks as if its writer had been killed, so it is no warning; it is named too."""
    with pytest.raises(Stop):
        train_here(config_for(tiny_set), store_in(tmp_path, stop_after=3))
    path = tmp_path / "checkpoint_000000003" / "files.json"
    data = path.read_bytes()
    damaged = {"flipped byte": data.replace(b"size", b"sizf", 1), "truncated": data[:-30]}
    path.unlink() if how == "missing" else path.write_bytes(damaged[how])
    caplog.set_level(logging.INFO)
    train_here(config_for(tiny_set), store_in(tmp_path))
    named = f"file://{path.parent} is half a checkpoint" if how == "missing" else f"file://{path}"
    found = [record for record in caplog.records if record.getMessage().startswith(named)]
    assert [record.levelno for record in found] == [logging.INFO if how == "missing" else logging.WARNING]
    assert "resuming at epoch 0, step 2 of 5" in caplog.text
    check_ended(tmp_path, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_starts_again_and_ends_with_the_right_weights(
    tiny_set: str, tmp_path: Path, undisturbed: tuple[Weights, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stop):
        train_here(config_for(tiny_set), store_in(tmp_path, stop_after=2))
    for path in tmp_path.glob("*/model.safetensors"):
        path.write_bytes(b"")
    train_here(config_for(tiny_set), store_in(tmp_path))
    assert "no sound checkpoint is left" in caplog.text
    check_ended(tmp_path, undisturbed)


def test_a_checkpoint_of_older_code_is_resumed_from(
    tiny_set: str, tmp_path: Path, undisturbed: tuple[Weights, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stop):
        train_here(config_for(tiny_set), store_in(tmp_path, stop_after=3))
    for step in (2, 3):  # as Ray Train named them
        old = tmp_path / f"checkpoint_2026-01-0{step}_00-00-00.000000"
        (tmp_path / f"checkpoint_00000000{step}").rename(old)
        (old / "files.json").unlink()
    caplog.set_level(logging.INFO)
    newest = tmp_path / "checkpoint_2026-01-03_00-00-00.000000" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-500])
    train_here(config_for(tiny_set), store_in(tmp_path))
    assert "resuming at epoch 0, step 2 of 5" in caplog.text
    assert "without checksums: unverified" in caplog.text
    check_ended(tmp_path, undisturbed)


def test_checkpoints_that_a_command_could_not_remove_are_removed_by_the_next_one(tiny_set: str, tmp_path: Path) -> None:
    train_here(config_for(tiny_set), store_in(tmp_path, keep=9))  # as if it had ended before it removed any
    assert len(list(tmp_path.glob("checkpoint_*"))) == 5
    outcome = train_here(config_for(tiny_set), store_in(tmp_path, keep=2))
    assert outcome.checkpoint == "checkpoint_000000005"
    assert sorted(path.parent.name[-1] for path in tmp_path.glob("checkpoint_*/files.json")) == ["4", "5"]
