from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, NotFoundError, StorageError, StorageSetupError
from pipeline.storage import join, open_storage


@pytest.fixture
def storage(tmp_path: Path):
    return open_storage(f"file://{tmp_path}/root")


def test_what_is_written_is_read(storage) -> None:
    storage.write("a/b.bin", b"0123456789")
    assert storage.read("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 4) == b"3456"
    assert storage.read_range("a/b.bin", 8, 10) == b"89"
    assert storage.size("a/b.bin") == 10
    assert storage.exists("a/b.bin")
    assert not storage.exists("a")


def test_list_is_sorted_and_by_prefix(storage) -> None:
    for name in ("b/2", "a/1", "b/10", "c"):
        storage.write(name, b"x")
    assert list(storage.list()) == ["a/1", "b/10", "b/2", "c"]
    assert list(storage.list("b/")) == ["b/10", "b/2"]


def test_absent_objects(storage) -> None:
    with pytest.raises(NotFoundError, match="nothing does not exist"):
        storage.read("nothing")
    with pytest.raises(NotFoundError):
        storage.size("nothing")
    storage.delete("nothing")


def test_a_failed_write_leaves_the_old_object_and_no_litter(storage, tmp_path: Path) -> None:
    storage.write("kept", b"old")
    with pytest.raises(TypeError):
        storage.write("kept", 5)  # type: ignore[arg-type]
    assert storage.read("kept") == b"old"
    assert list((tmp_path / "root").iterdir()) == [tmp_path / "root" / "kept"]


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd"])
def test_paths_stay_inside(storage, path: str) -> None:
    with pytest.raises(StorageError, match="would leave"):
        storage.write(path, b"x")


def test_objects_have_the_usual_mode(storage, tmp_path: Path) -> None:
    storage.write("x", b"1")
    (tmp_path / "plain").write_bytes(b"1")
    assert (tmp_path / "root" / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pickles(storage) -> None:
    storage.write("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_probe_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageSetupError, match="cannot be written"):
        open_storage(f"file://{tmp_path}/file/below").probe(write=True)


@pytest.mark.parametrize("uri", ["", "s3://", "file://relative", "http://x/y", "/plain/path", "file:///a/../b"])
def test_wrong_uris_say_what_to_give(uri: str) -> None:
    with pytest.raises(ConfigError, match="give s3://BUCKET/PREFIX or file:///"):
        open_storage(uri)


def test_join() -> None:
    assert join("s3://b/p/", "/x", "y/") == "s3://b/p/x/y"
