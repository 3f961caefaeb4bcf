"""The storage that holds nothing, against what Ray Train asks of a storage."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from ray.air.config import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from jobs.cluster.storage import empty_file_system


def test_rays_own_check_of_a_storage_passes_and_it_finds_no_earlier_run() -> None:
    context = StorageContext(storage_path="", experiment_dir_name="run", storage_filesystem=empty_file_system())
    context._check_validation_file()  # as every node does
    manager = CheckpointManager(CheckpointConfig(), context)
    assert manager.latest_checkpoint_result is None


def test_what_is_written_is_gone(tmp_path: Path) -> None:
    fs = empty_file_system()
    fs.create_dir("run/checkpoint", recursive=True)
    with fs.open_output_stream("run/checkpoint/model.bin") as stream:
        stream.write(b"weights")
    (tmp_path / "a").write_bytes(b"1" * 5000)
    pyarrow.fs.copy_files(str(tmp_path), "up", destination_filesystem=fs)
    assert fs.get_file_info("run/checkpoint/model.bin").type == pyarrow.fs.FileType.NotFound
    assert fs.get_file_info(pyarrow.fs.FileSelector("up", recursive=True, allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        fs.open_input_stream("run/checkpoint/model.bin")
    fs.delete_dir("run")


def test_pickles_and_compares() -> None:
    fs = empty_file_system()
    assert pickle.loads(pickle.dumps(fs)) == fs
