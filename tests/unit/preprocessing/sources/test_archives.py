"""Archives seen as unpacked: the oracle is what tarfile and zipfile unpack."""

from __future__ import annotations

import gzip
import io
import logging
import multiprocessing
import os
import pickle
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.config.stack import home
from pipeline.errors import RejectedSource, StorageError, UserError
from pipeline.storage import LocalStorage
from preprocessing.sources import (
    BucketStore,
    PackedStore,
    SourceStore,
    archive_formats,
    gzip_access,
    limits,
    open_sources,
)
from preprocessing.sources.archives import Archive
from preprocessing.sources.base import PlainStore
from preprocessing.sources.catalogue import ArchiveMember

RANDOM = os.urandom(3 << 20)
FILES = {
    "a/one.mp4": RANDOM[:700_001],
    "a/-dash 'quote\".avi": b"flat " * 100_000,
    "ünï/日本.mkv": RANDOM[5:100],
    "a/empty.mp4": b"",
    "n" * 120 + "/" + "m" * 120 + ".mp4": RANDOM[-1_000_000:],  # longer than an old tar header holds
    "top.mp4": RANDOM[1_000_000:1_600_000],
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))


def make(
    file: Path,
    files: dict[str, bytes] = FILES,
    edit: Callable[[tarfile.TarFile], object] = lambda tar: None,
    **options: object,
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return file
    with tarfile.open(file, "w:" if file.suffix == ".tar" else "w:gz", **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        edit(archive)
    return file


def bytes_of(store: SourceStore) -> dict[str, bytes]:
    found = {}
    for name, size in store.walk():
        with store.local(name) as file:
            found[name] = file.read_bytes()
            assert file.suffix in (Path(name).suffix, "")
        assert len(found[name]) == size
    return found


def why(store: SourceStore, path: str) -> str:
    with pytest.raises(RejectedSource) as caught, store.local(path):
        pass
    return caught.value.reason


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "X.ZIP", "x.zip"])
def test_seen_as_unpacked(tmp_path, monkeypatch, name, place):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    root = tmp_path / "videos"
    make(root / "train" / name.lower()).rename(root / "train" / name)
    (root / "val").mkdir()
    (root / "val" / "loose.mp4").write_bytes(b"loose")
    store = PackedStore(BucketStore(LocalStorage(str(root)))) if place == "bucket" else open_sources(str(root))
    expected = {f"train/{path}": data for path, data in FILES.items()} | {"val/loose.mp4": b"loose"}
    assert bytes_of(store) == expected
    assert list(dict(store.walk())) == sorted(expected)
    other = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 2000
    assert other.sizes(list(expected)) == {path: len(data) for path, data in expected.items()}
    assert why(other, "train/none.mp4") == "missing"
    assert why(other, f"train/../train/{name}") == "unsafe_path"
    assert store.packed("train/top.mp4")
    assert not store.packed("val/loose.mp4")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.tar"])
def test_an_archive_itself_is_a_source(tmp_path, name):
    make(tmp_path / "set" / name)
    make(tmp_path / "set" / f"other-{name}")  # not asked for
    assert bytes_of(open_sources(str(tmp_path / "set" / name))) == FILES
    assert why(open_sources(str(tmp_path / "set" / name)), f"other-{name}") == "missing"


@pytest.mark.parametrize(
    "options",
    [{"compresslevel": 1}, {"compresslevel": 9}, {"format": tarfile.PAX_FORMAT}, {"format": tarfile.GNU_FORMAT}],
)
def test_gzip_random_access_equals_the_plain_stream(tmp_path, monkeypatch, options):
    monkeypatch.setattr(gzip_access, "_SPACING_BYTES", 1 << 17)
    archive = make(tmp_path / "x.tar.gz", **options)
    stream = gzip.decompress(archive.read_bytes())
    points = tmp_path / "points"
    with archive.open("rb") as file:
        assert gzip_access.index_gzip(file, archive.stat().st_size, points, lambda stream: stream.read(3)) == stream[:3]
    for offset, size in (
        (0, 1),
        (1_234_567, 100_000),
        (len(stream) - 10, 100),
        (0, len(stream)),
        (77, 2_000_000),
        (len(stream) + 5, 1),
    ):
        parts: list[bytes] = []
        done = gzip_access.read_gzip(points, lambda: archive.open("rb"), offset, size, parts.append)
        assert b"".join(parts) == stream[offset : offset + size]
        assert done == len(stream[offset : offset + size])


def test_gzip_of_several_members_is_read_to_its_end_and_once(tmp_path):
    whole = gzip.decompress(make(tmp_path / "x.tar.gz").read_bytes())
    data = gzip.compress(whole[:1_000_000]) + gzip.compress(whole[1_000_000:]) + b"\0" * 1024
    (tmp_path / "x.tar.gz").write_bytes(data)

    class Counting(LocalStorage):
        num_bytes = 0

        def read_range(self, path: str, offset: int, length: int) -> bytes:
            Counting.num_bytes += length
            return super().read_range(path, offset, length)

    store = PackedStore(BucketStore(Counting(str(tmp_path))))
    assert dict(store.walk()) == {name: len(content) for name, content in FILES.items()}
    assert len(data) <= Counting.num_bytes < 1.1 * len(data) + (64 << 10)
    assert bytes_of(store) == FILES


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_members_of_a_hostile_tar_are_listed_with_their_problem_and_never_unpacked(tmp_path, caplog, name):
    def edit(tar: tarfile.TarFile) -> None:
        for info in (
            entry("../evil.mp4"),
            entry("a/../../evil.mp4"),
            entry("/abs.mp4"),
            entry("a/sym.mp4", tarfile.SYMTYPE, "/etc/passwd"),
            entry("a/hard.mp4", tarfile.LNKTYPE, "one.mp4"),
            entry("a/dev.mp4", tarfile.BLKTYPE),
            entry("a/pipe.mp4", tarfile.FIFOTYPE),
            entry("a", tarfile.DIRTYPE),
            entry("a/.hidden.mp4"),
            entry("./a//dotted.mp4"),
            entry("a/x.mp4\n"),
            entry("a/caf\udce9.mp4"),
        ):
            tar.addfile(info)

    make(tmp_path / "videos" / "deep" / name, {"a/one.mp4": b"1"}, edit)
    store = open_sources(str(tmp_path / "videos"))
    assert dict(store.walk()) == {
        "deep/a/one.mp4": 1,
        "deep/a/dotted.mp4": 0,
        "deep/a/x.mp4\n": 0,
        "deep/a/caf\udce9.mp4": 0,
    }
    for path in ("a/sym.mp4", "a/hard.mp4", "a/dev.mp4", "a/pipe.mp4"):
        assert why(store, f"deep/{path}") == "unsafe_path"
        assert store.refusal(f"deep/{path}").reason == "unsafe_path"
    for path in ("evil.mp4", "deep/abs.mp4", "abs.mp4", "deep/a/.hidden.mp4"):
        assert why(store, path) == "missing"
    assert "3 members of archives are left out (unsafe_path, a name that leaves" in caplog.text
    assert "2 members of archives are left out (unsafe_path, a link" in caplog.text
    for path in ("deep/a/x.mp4\n", "deep/a/caf\udce9.mp4"):
        with store.local(path) as file:
            assert re.fullmatch(r"reciprocal-scratch-\w+/video(\.mp4)?", f"{file.parent.name}/{file.name}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "videos"]
    assert [p.name for p in (tmp_path / "videos" / "deep").iterdir()] == [name]


def test_odd_zip_members(tmp_path):
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("stored.mp4", b"s" * 1000, zipfile.ZIP_STORED)
        archive.writestr("bz2.mp4", b"b" * 9_000_000, zipfile.ZIP_BZIP2)
        archive.writestr("deflate.mp4", b"d" * 9_000_000, zipfile.ZIP_DEFLATED)
        archive.writestr("lzma.mp4", b"l" * 1000, zipfile.ZIP_LZMA)
        archive.writestr("../evil.mp4", b"e")
        archive.writestr("/abs.mp4", b"e")
        archive.writestr("folder/", b"")
        link = zipfile.ZipInfo("link.mp4")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"/etc/passwd")
        archive.writestr("secret.mp4", b"e")
    data = bytearray(file.read_bytes())
    central = data.index(b"PK\x01\x02")
    at = data.index(b"secret.mp4", central) - 46
    data[at + 8] |= 1  # the flag that says encrypted
    file.write_bytes(data)
    store = open_sources(str(file))
    assert bytes_of(store) == {"stored.mp4": b"s" * 1000, "bz2.mp4": b"b" * 9_000_000, "deflate.mp4": b"d" * 9_000_000}
    assert {path: why(store, path) for path in ("lzma.mp4", "link.mp4", "secret.mp4", "abs.mp4", "evil.mp4")} == {
        "lzma.mp4": "unreadable",
        "link.mp4": "unsafe_path",
        "secret.mp4": "unreadable",
        "abs.mp4": "missing",
        "evil.mp4": "missing",
    }


def test_zip_names_without_the_utf8_flag(tmp_path):
    file = make(tmp_path / "x.zip", {"日本.mp4": b"1"})
    data = bytearray(file.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[at + 1] &= ~0x08
    file.write_bytes(data)
    assert bytes_of(open_sources(str(file))) == {"日本.mp4": b"1"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_damage_inside_a_zip_member_is_that_members(tmp_path, method):
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("good.mp4", "data.mp4", "header.mp4"):
            archive.writestr(name, RANDOM[:300_000])
        offsets = {info.filename: info.header_offset for info in archive.infolist()}
    data = bytearray(file.read_bytes())
    data[offsets["data.mp4"] + 150_000] ^= 0xFF
    data[offsets["header.mp4"]] ^= 0xFF
    file.write_bytes(data)
    store = open_sources(str(file))
    assert len(dict(store.walk())) == 3
    assert (why(store, "data.mp4"), why(store, "header.mp4")) == ("unreadable", "unreadable")
    with store.local("good.mp4") as copy:
        assert copy.read_bytes() == RANDOM[:300_000]


def written_bytes(store: SourceStore, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """What reaches the folder for temporary files, of a member that is then rejected as too large."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    written: list[int] = []
    extract = Archive.extract

    def counted(self: Archive, base: PlainStore, member: ArchiveMember, file: BinaryIO) -> None:
        try:
            extract(self, base, member, file)
        finally:
            written.append(file.tell())

    monkeypatch.setattr(Archive, "extract", counted)
    match = "too_large: .* bytes or more unpack from .* in the archive"
    with pytest.raises(RejectedSource, match=match), store.local(path):
        pass
    return sum(written)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member may unpack to 100 KiB, or to a hundred times its bytes in the archive."""
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 10)


BOMB = {"clip.mp4": RANDOM[:300_000], "bomb.mp4": bytes(20_000_000), "flat.mp4": b"flat" * 20_000}


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_member_that_unfolds_is_a_reject_and_the_others_are_read(tmp_path, monkeypatch, small_limits, name):
    store = open_sources(str(make(tmp_path / name, BOMB)))
    assert dict(store.walk()) == {path: len(data) for path, data in BOMB.items()}, "listed, so that it is a reject"
    for good in ("clip.mp4", "flat.mp4"):
        with store.local(good) as copy:
            assert copy.read_bytes() == BOMB[good]
    assert written_bytes(store, "bomb.mp4", monkeypatch, tmp_path) == 0


def test_a_plain_tar_holds_what_it_says(tmp_path, small_limits):
    assert bytes_of(open_sources(str(make(tmp_path / "x.tar", BOMB)))) == BOMB


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_lies_about_its_packed_bytes_is_stopped_on_the_way(tmp_path, monkeypatch, small_limits, method):
    """The directory claims ten times the packed bytes that there are: what was used counts, not what is claimed."""
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("bomb.mp4", bytes(50_000_000))
        archive.writestr("clip.mp4", RANDOM[:1_500_000], zipfile.ZIP_STORED)
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x01\x02") + 20
    data[at : at + 4] = (1_000_000).to_bytes(4, "little")
    file.write_bytes(data)
    monkeypatch.setattr(archive_formats, "_CHUNK_BYTES", 1 << 12)
    assert written_bytes(open_sources(str(file)), "bomb.mp4", monkeypatch, tmp_path) < 6_000_000


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(limits, "MAX_MEMBERS", 5)
    with pytest.raises(UserError, match=f"{name} has more than 5 members: split it"):
        list(open_sources(str(make(tmp_path / name))).walk())


def test_a_zip_member_larger_than_it_says_stops(tmp_path):
    file = make(tmp_path / "x.zip", {"bomb.mp4": b"0" * 50_000_000})
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    file.write_bytes(data)
    store = open_sources(str(file))
    assert dict(store.walk()) == {"bomb.mp4": 1000}
    assert why(store, "bomb.mp4") == "unreadable"


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
@pytest.mark.parametrize("damage", ["half", "end", "empty", "text", "flipped"])
def test_a_damaged_archive_is_named_and_nothing_is_kept(tmp_path, name, damage):
    file = make(tmp_path / "videos" / name, FILES)
    data = file.read_bytes()
    if damage == "flipped" and name == "x.tar":
        pytest.skip("a plain tar has no checksum of its data")
    cut = {"x.tar": 10240, "x.tar.gz": 6, "x.zip": 30}[name]  # tar: the whole end mark, at a member's border
    bad = {
        "half": data[: len(data) // 2],
        "end": data[:-cut],
        "empty": b"",
        "text": b"<html>not found</html>" * 100,
        "flipped": bytearray(data),
    }[damage]
    if damage == "end" and name == "x.tar":
        with tarfile.open(file) as tar:
            bad = data[: tar.getmembers()[-1].offset]
    if damage == "flipped":
        at = len(data) // 3 if name == "x.tar.gz" else data.index(b"PK\x01\x02")
        bad[at] ^= 0xFF
    file.write_bytes(bad)
    with pytest.raises(UserError, match=rf"videos/{name} is damaged or not a {name[2:]} file"):
        open_sources(str(tmp_path / "videos")).sizes(["a/one.mp4"])
    cache = home() / "cache" / "archives"
    assert [p.name for p in cache.iterdir() if p.suffix != ".lock"] == []
    file.write_bytes(data)
    assert bytes_of(open_sources(str(tmp_path / "videos"))) == FILES


def test_a_tar_header_may_not_ask_for_all_memory(tmp_path):
    info = entry("x", tarfile.XHDTYPE)
    info.size = 32 << 20  # 32 KB when compressed; nothing says it could not be 32 GB
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * info.size))
    with pytest.raises(UserError, match="a header of 33554432 bytes"):
        list(open_sources(str(tmp_path)).walk())


def test_the_same_path_twice(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make(tmp_path / "1.tar", {"a/x.mp4": b"12", "README.txt": b"1", "b.mp4": b"b"})
    make(tmp_path / "2.zip", {"a/y.mp4": b"12", "README.txt": b"2"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes(b"34")
    store = open_sources(str(tmp_path))
    assert bytes_of(store) == {
        "a/x.mp4": b"34",
        "a/y.mp4": b"12",
        "b.mp4": b"b",
        "README.txt": b"1",
    }  # the loose file, and the first
    assert not store.packed("a/x.mp4")
    (tmp_path / "a" / "x.mp4").write_bytes(b"345")
    with pytest.raises(UserError, match=r"a/x.mp4 is a file of 3 bytes, and one of 2 bytes in 1.tar"):
        list(open_sources(str(tmp_path)).walk())
    (tmp_path / "a" / "x.mp4").unlink()
    make(tmp_path / "2.zip", {"a/x.mp4": b"12"})
    with pytest.raises(UserError, match=r"a/x.mp4 is in 1.tar and in 2.zip: keep one"):
        list(open_sources(str(tmp_path)).walk())


def test_the_last_of_one_name_in_one_archive(tmp_path):
    make(tmp_path / "x.tar", {"a.mp4": b"first", "./a.mp4": b"last, as tar -x leaves it"})
    assert bytes_of(open_sources(str(tmp_path))) == {"a.mp4": b"last, as tar -x leaves it"}


@pytest.mark.slow
def test_a_changed_archive_gets_a_new_index_and_stops_those_who_knew_the_old(tmp_path):
    make(tmp_path / "v" / "x.tar", {"a.mp4": b"11", "b.mp4": b"2"})
    before = open_sources(str(tmp_path / "v"))
    list(before.walk())
    travelled = pickle.dumps(before)
    make(tmp_path / "v" / "x.tar", {"b.mp4": b"2", "a.mp4": b"11"})
    os.utime(tmp_path / "v" / "x.tar", ns=(5, 5))
    assert bytes_of(open_sources(str(tmp_path / "v"))) == {"a.mp4": b"11", "b.mp4": b"2"}
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(UserError, match=r"x.tar changed while the job ran"),
    ):
        pool.apply(_read, (travelled, "a.mp4"))


def _read(pickled: bytes, path: str) -> bytes:
    with pickle.loads(pickled).local(path) as file:
        return file.read_bytes()


@pytest.mark.slow
def test_processes_and_threads_share_one_index(tmp_path):
    make(tmp_path / "v" / "x.tar.gz")
    store = open_sources(str(tmp_path / "v"))
    with multiprocessing.get_context("spawn").Pool(2) as pool:  # nobody has indexed it yet
        found = pool.starmap(_read, [(pickle.dumps(store), name) for name in [*FILES, *FILES]])
    assert found == [*FILES.values(), *FILES.values()]
    assert sorted(p.suffix for p in (home() / "cache" / "archives").iterdir() if p.suffix != ".lock") == [
        ".catalogue",
        ".members",
        ".points",
    ]
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        results[number] = all(_read(pickle.dumps(store), name) == data for name, data in FILES.items())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_a_lost_index_of_points_is_made_again(tmp_path):
    make(tmp_path / "v" / "x.tar.gz")
    assert bytes_of(open_sources(str(tmp_path / "v"))) == FILES
    for file in (home() / "cache" / "archives").iterdir():
        if file.suffix in (".points", ".catalogue"):
            file.unlink()
    gzip_access._open.clear()
    assert bytes_of(open_sources(str(tmp_path / "v"))) == FILES


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    make(tmp_path / "v" / "x.zip")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write the archive index .* set RECIPROCAL_HOME"):
        list(open_sources(str(tmp_path / "v")).walk())


def test_a_storage_that_fails_is_no_damage(tmp_path):
    make(tmp_path / "x.tar.gz")

    class Failing(LocalStorage):
        def read_range(self, path: str, offset: int, length: int) -> bytes:
            raise StorageError("503 forever")

    with pytest.raises(StorageError, match="503 forever"):
        list(PackedStore(BucketStore(Failing(str(tmp_path)))).walk())
    store = PackedStore(BucketStore(LocalStorage(str(tmp_path))))
    list(store.walk())
    gzip_access._open.clear()
    store.base.storage = Failing(str(tmp_path))
    with pytest.raises(StorageError, match="503 forever"), store.local("top.mp4"):
        pass


def test_archives_of_other_kinds_are_named(tmp_path, caplog):
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    assert dict(open_sources(str(tmp_path)).walk()) == {"x.rar": 4}
    assert "1 archives in unsupported formats (first: x.rar)" in caplog.text
