from __future__ import annotations

import concurrent.futures
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, NotFoundError, StorageError, StorageSetupError
from pipeline.storage import LocalStorage, join, open_storage
from tests.support.paths import ROOT


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


def test_absent_objects_are_named_errors(storage) -> None:
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


def test_objects_have_the_umasks_mode(storage, tmp_path: Path) -> None:
    storage.write("x", b"1")
    (tmp_path / "plain").write_bytes(b"1")
    assert (tmp_path / "root" / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_storage_survives_pickling(storage) -> None:
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


def test_join_puts_single_slashes() -> None:
    assert join("s3://b/p/", "/x", "y/") == "s3://b/p/x/y"


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    """Neither under the object's name nor under another: a file without a name goes with its process."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom pipeline.storage import open_storage\nsource ="
        " Path(sys.argv[2])\nos.mkfifo(source)\nprint('ready',"
        " flush=True)\nopen_storage(f'file://{sys.argv[1]}').write_file('a/x', source)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "root"), str(tmp_path / "pipe")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(bytes(1 << 22))  # the writer is in mid-file: it has read these bytes and waits for more
        pipe.flush()
        child.kill()
        child.wait()
    left = [p for p in (tmp_path / "root").rglob("*") if p.is_file()]
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        assert all(p.name.startswith(".tmp-") for p in left), "this file system has no files without a name"
    else:
        assert left == []


def test_file_systems_without_nameless_files(storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuses(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuses)
    storage.write("x", b"1")
    storage.write("x", b"2")
    assert storage.read("x") == b"2"
    with pytest.raises(TypeError):
        storage.write("x", 5)  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "make room there, or name a place that has it"),
        (errno.EDQUOT, "make room there"),
        (errno.EROFS, "let this user write there, or name a place where it may"),
        (errno.EACCES, "let this user write there"),
    ],
)
@pytest.mark.parametrize("call", ["write", "write_file", "delete"])
def test_a_folder_that_takes_nothing_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str, call: str
) -> None:
    """As a full or a read-only file system would."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    source = tmp_path / "source"
    source.write_bytes(b"data")
    monkeypatch.setattr("pipeline.storage.local.atomic_file", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    storage = LocalStorage(str(tmp_path))
    arguments = {"write": (b"data",), "write_file": (source,), "delete": ()}[call]
    with pytest.raises(StorageSetupError, match=rf"cannot write file://{tmp_path}/x: .*{os.strerror(number)}; {fix}"):
        getattr(storage, call)("x", *arguments)


def test_a_folder_goes_with_its_last_object(storage, tmp_path: Path) -> None:
    storage.write("a/b/one", b"1")
    storage.write("a/two", b"2")
    storage.delete("a/b/one")
    assert sorted(path.name for path in storage.root.rglob("*")) == ["a", "two"]
    storage.delete("a/two")
    assert storage.root.is_dir()
    assert list(storage.root.iterdir()) == []


def test_a_folder_that_goes_while_it_is_looked_at_is_made_again(storage, monkeypatch) -> None:
    """``mkdir`` finds it there, and then not to be a folder."""
    made, calls = Path.mkdir, iter((FileExistsError(17, "File exists"), FileNotFoundError(2, "No such file"), None))

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        if error := next(calls, None):
            raise error
        made(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    storage.write("a/b/one", b"1")
    assert storage.read("a/b/one") == b"1"


def test_a_folder_that_goes_while_something_is_written_into_it_is_made_again(storage) -> None:
    def work(name: str) -> int:
        for number in range(100):
            storage.write(f"a/b/{name}", str(number).encode())
            assert storage.read(f"a/b/{name}") == str(number).encode()
            storage.delete(f"a/b/{name}")
        return 100

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, ["one", "two", "three", "four"])) == 400
    assert list(storage.root.iterdir()) == []
