"""The pyarrow file system that Ray Train writes through: pyarrow's own behaviour on a local folder is the oracle."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow.fs
import pytest

from jobs.cluster.storage import ray_file_system


@pytest.fixture(params=["ours", "pyarrow"])
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> pyarrow.fs.FileSystem:
    root = tmp_path / "root"
    root.mkdir()
    if request.param == "ours":
        return ray_file_system(f"file://{root}")
    return pyarrow.fs.SubTreeFileSystem(str(root), pyarrow.fs.LocalFileSystem())


def put(fs: pyarrow.fs.FileSystem, path: str, data: bytes) -> None:
    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with fs.open_output_stream(path) as stream:
        stream.write(data[:2])
        stream.write(data[2:])


def kinds(fs: pyarrow.fs.FileSystem, base: str, recursive: bool) -> set[tuple[str, str]]:
    return {
        (info.path, info.type.name) for info in fs.get_file_info(pyarrow.fs.FileSelector(base, recursive=recursive))
    }


def test_behaves_as_a_file_system(fs: pyarrow.fs.FileSystem) -> None:
    put(fs, "run/checkpoint/model.bin", b"weights")
    put(fs, "run/checkpoint/sub/state.json", b"{}")
    put(fs, "run/snapshot.json", b"[]")
    assert kinds(fs, "run", False) == {("run/checkpoint", "Directory"), ("run/snapshot.json", "File")}
    assert len(kinds(fs, "run", True)) == 5
    assert [i.type.name for i in fs.get_file_info(["run", "run/snapshot.json", "absent"])] == [
        "Directory",
        "File",
        "NotFound",
    ]
    with fs.open_input_stream("run/checkpoint/model.bin") as stream:
        assert stream.read() == b"weights"
    fs.delete_dir("run/checkpoint")
    assert kinds(fs, "run", True) == {("run/snapshot.json", "File")}
    with pytest.raises(FileNotFoundError):
        fs.open_input_stream("run/checkpoint/model.bin")
    with pytest.raises(FileNotFoundError):
        fs.get_file_info(pyarrow.fs.FileSelector("absent"))


def test_copies_folders_both_ways(fs: pyarrow.fs.FileSystem, tmp_path: Path) -> None:
    (tmp_path / "local" / "deep").mkdir(parents=True)
    (tmp_path / "local" / "a").write_bytes(b"1" * 5000)
    (tmp_path / "local" / "deep" / "b").write_bytes(b"2")
    pyarrow.fs.copy_files(str(tmp_path / "local"), "up", destination_filesystem=fs)
    pyarrow.fs.copy_files("up", str(tmp_path / "back"), source_filesystem=fs)
    assert (tmp_path / "back" / "a").read_bytes() == b"1" * 5000
    assert (tmp_path / "back" / "deep" / "b").read_bytes() == b"2"


def test_pickles_and_compares(tmp_path: Path) -> None:
    fs = ray_file_system(f"file://{tmp_path}")
    assert pickle.loads(pickle.dumps(fs)) == fs
    assert fs != ray_file_system("file:///elsewhere")
