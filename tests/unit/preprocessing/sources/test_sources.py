"""Folders and buckets as places of videos: what they list, what they open, and what they must not."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, NotFoundError, RejectedSource, StorageError
from pipeline.storage import open_storage
from preprocessing.sources import BucketStore, FolderStore, SourceStore, open_sources

NAMES = (
    "a/x.mp4",
    "a/ two words.mp4",
    "-dash.mp4",
    "q'\"&;$(x)[1].avi",
    "ünï/日本.mkv",
    "a.b.c/d.e.mp4",
    "b#1-2.mp4",
    "c%20d.mp4",
    "new\nline.mp4",
)


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def reason(store: SourceStore, path: str) -> str:
    with pytest.raises(RejectedSource) as caught, store.local(path):
        pass
    assert store.refusal(path).reason == caught.value.reason
    return caught.value.reason


@pytest.fixture(params=["folder", "file uri", "storage"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SourceStore:
    root = fill(
        tmp_path / "videos",
        {name: name.encode() for name in NAMES} | {".hidden/x.mp4": b"", "a/.DS_Store": b"", "a/empty.mp4": b""},
    )
    if request.param == "storage":
        return BucketStore(open_storage(f"file://{root}"))
    return open_sources(str(root) if request.param == "folder" else f"file://{root}")


def test_listing_and_bytes(store):
    expected = sorted([(name, len(name.encode())) for name in NAMES] + [("a/empty.mp4", 0)])
    assert list(store.walk()) == expected
    assert store.sizes(["a/x.mp4", "none", "../videos/a/x.mp4", "a", "a/.DS_Store"]) == {"a/x.mp4": 7}
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000, "the listing must not travel"
    for name, size in expected:
        with again.local(name) as file:
            assert file.read_bytes() == (name.encode() if size else b"")
            assert file.suffix == Path(name).suffix


def test_what_is_not_there(store):
    assert reason(store, "a/none.mp4") == "missing"
    assert reason(store, "a/x.mp4/deeper") == "missing"
    if not isinstance(store, BucketStore):
        assert reason(store, "n" * 300) == "missing"
    for path in ("../videos/a/x.mp4", "a/../../x", "/etc/passwd", "", "a\0b", ".."):
        assert reason(store, path) == "unsafe_path"


def test_folder_links_pipes_and_unreadable(tmp_path, caplog):
    outside = fill(tmp_path / "outside", {"secret.mp4": b"s", "deep/secret.mp4": b"s"})
    root = fill(tmp_path / "videos", {"a/x.mp4": b"12", "b/y.mp4": b"3"})
    (root / "a" / "inside.mp4").symlink_to(root / "b" / "y.mp4")
    (root / "folder").symlink_to("b")
    (root / "loop").symlink_to(".")
    (root / "a" / "up").symlink_to("../a")
    (root / "evil.mp4").symlink_to(outside / "secret.mp4")
    (root / "evil").symlink_to(outside)
    (root / "dangling.mp4").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.mp4")
    store = open_sources(str(root))
    assert dict(store.walk()) == {"a/x.mp4": 2, "a/inside.mp4": 1, "b/y.mp4": 1, "folder/y.mp4": 1}
    assert "2 links that point outside are left out (first: evil)" in caplog.text
    for path, why in {
        "evil.mp4": "unsafe_path",
        "evil/secret.mp4": "unsafe_path",
        "dangling.mp4": "missing",
        "pipe.mp4": "unreadable",
        "a": "unreadable",
    }.items():
        assert reason(store, path) == why, path
    with store.local("a/inside.mp4") as file:
        assert file.read_bytes() == b"3"
    link = tmp_path / "link"
    link.symlink_to(root)  # the source itself may be a link
    assert dict(open_sources(str(link)).walk()) == dict(store.walk())


def test_a_disk_that_goes_away_is_no_missing_video(tmp_path):
    root = fill(tmp_path / "videos", {"a.mp4": b"1"})
    store = open_sources(str(root))
    root.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="is the disk still mounted"), store.local("a.mp4"):
        pass


def test_sizes_are_fast(tmp_path):
    names = [f"class {i % 50}/{i:05d}.mp4" for i in range(20_000)]
    for i in range(50):
        (tmp_path / f"class {i}").mkdir()
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT))
    store = open_sources(str(tmp_path))
    start = time.process_time()
    assert len(store.sizes(names)) == 20_000
    assert time.process_time() - start < 1.0


def test_wrong_uris_are_refused(tmp_path):
    (tmp_path / "x.mp4").touch()
    for uri in (
        str(tmp_path / "none"),
        str(tmp_path / "x.mp4"),
        "https://host/x",
        "ftp://h/x",
        str(tmp_path / "none.zip"),
    ):
        with pytest.raises(ConfigError, match=r"source = .* is not a folder on this machine"):
            open_sources(uri)
    with pytest.raises(ConfigError, match="annotations = "):
        open_sources("gs://bucket/x", field="annotations")
    with pytest.raises(ConfigError, match="give s3://BUCKET"):
        open_sources("s3:///x")


class CountingStorage(type(open_storage("file:///"))):
    """LocalStorage that notes the ranges asked for, and can fail."""

    ranges: tuple = ()
    cut_bytes = 0

    def read(self, path: str) -> bytes:
        raise AssertionError("a video must not be read in one piece")

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.ranges = (*self.ranges, (offset, length))
        return super().read_range(path, offset, length)[: length - self.cut_bytes]


def test_large_objects_come_in_pieces_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    data = os.urandom(40 << 20)
    fill(tmp_path / "bucket", {"-rf x.MP4": data})
    storage = CountingStorage(str(tmp_path / "bucket"))
    with BucketStore(storage).local("-rf x.MP4") as copy:
        assert copy.read_bytes() == data
        assert copy.parent.name.startswith("reciprocal-")
        assert copy.suffix == ".MP4"
    assert max(length for _, length in storage.ranges) <= 16 << 20
    storage.cut_bytes = 5
    with (
        pytest.raises(StorageError, match="changed while it was read: 16777211 of"),
        BucketStore(storage).local("-rf x.MP4"),
    ):
        pass
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_is_a_fault_of_the_disk(tmp_path, monkeypatch):
    fill(tmp_path, {"a.mp4": b"1" * 100})
    store = BucketStore(open_storage(f"file://{tmp_path}"))

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(StorageError, match=r"cannot copy a.mp4 .*No space left.*TMPDIR"), store.local("a.mp4"):
        pass


def test_an_error_of_the_reader_is_not_the_stores(tmp_path):
    store = BucketStore(open_storage(f"file://{fill(tmp_path, {'a.mp4': b'1'})}"))
    with pytest.raises(OSError, match="of the decoder"), store.local("a.mp4") as copy:
        raise OSError("of the decoder")
    assert not copy.exists()


def test_objects_that_are_no_paths_are_left_out(tmp_path, caplog):
    class Odd(CountingStorage):
        def list_versions(self, prefix: str = ""):
            names = ("a/x.mp4", "a//y.mp4", "../z.mp4", "folder/", ".h/x", "b/.x")
            return iter([(name, 1, "etag") for name in names])

    assert dict(BucketStore(Odd(str(tmp_path))).walk()) == {"a/x.mp4": 1}
    assert "2 objects whose names are not paths" in caplog.text


def test_partial_reads_give_the_bytes_asked_for(tmp_path):
    data = os.urandom(300_000)
    fill(tmp_path, {"a.bin": data})
    for store in (BucketStore(open_storage(f"file://{tmp_path}")), FolderStore(tmp_path)):
        with store.open("a.bin", buffer_bytes=4096) as file:
            for offset, length in ((0, 10), (299_990, 100), (100_000, 50_000), (5, 5), (400_000, 5)):
                file.seek(offset)
                assert file.read(length) == data[offset : offset + length]
            assert file.seek(-7, os.SEEK_END) == 299_993
            assert file.read() == data[-7:]
        size, version = store.stat("a.bin")
        assert size == 300_000
        os.utime(tmp_path / "a.bin", ns=(1, 1))
        assert store.stat("a.bin") != (size, version)
        with pytest.raises(NotFoundError):
            store.stat("b.bin")
        os.utime(tmp_path / "a.bin")
