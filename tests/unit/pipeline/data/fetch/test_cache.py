"""The cache on local disk: bounds, order of eviction, processes that fill and die, disks that fail."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.data.fetch import cache as module
from pipeline.data.fetch.cache import DiskCache
from pipeline.data.fetch.damage import Damaged
from pipeline.data.fetch.read import FetchMetrics, read_sample
from pipeline.data.index import load_index
from pipeline.storage import LocalStorage

KB = 1000


def body(tar: str, offset: int, size: int) -> bytes:
    return random.Random(f"{tar} {offset}").randbytes(size)


def fill(cache: DiskCache, offsets: range, size: int = 10 * KB) -> None:
    for offset in offsets:
        cache.put("train/a.tar", offset, size, body("train/a.tar", offset, size))


def held(cache: DiskCache, offsets: range, size: int = 10 * KB) -> list[int]:
    """Which of these are stored, without touching them as a reader would."""
    return [offset for offset in offsets if cache._path("train/a.tar", offset, size).exists()]


def disk_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name not in ("total", "sweeping"))


def test_each_range_of_each_version_is_a_thing_of_its_own(tmp_path: Path) -> None:
    one, two = DiskCache(tmp_path, 1000 * KB, "digest one"), DiskCache(tmp_path, 1000 * KB, "digest two")
    one.put("train/a.tar", 512, 4, b"abcd")
    assert one.get("train/a.tar", 512, 4) == b"abcd"
    assert [
        one.get("train/b.tar", 512, 4),
        one.get("train/a.tar", 513, 4),
        one.get("train/a.tar", 512, 5),
        two.get("train/a.tar", 512, 4),
    ] == [None] * 4
    two.put("train/a.tar", 512, 4, b"efgh")
    assert (one.get("train/a.tar", 512, 4), two.get("train/a.tar", 512, 4)) == (b"abcd", b"efgh")
    one.drop("train/a.tar", 512, 4)
    assert one.get("train/a.tar", 512, 4) is None
    assert module.stored_total(tmp_path) == disk_bytes(tmp_path) == 4


def test_what_was_read_longest_ago_goes_first_and_what_this_run_read_stays(tmp_path: Path) -> None:
    fill(DiskCache(tmp_path, 100 * KB, "d"), range(10))
    old = DiskCache(tmp_path, 100 * KB, "d")
    long_ago = time.time() - 1000
    for offset in range(10):
        os.utime(old._path("train/a.tar", offset, 10 * KB), (long_ago + offset, long_ago + offset))
    cache = DiskCache(tmp_path, 100 * KB, "d")
    for offset in (0, 4):
        assert cache.get("train/a.tar", offset, 10 * KB) == body("train/a.tar", offset, 10 * KB)
    fill(cache, range(10, 11))
    assert held(cache, range(11)) == [
        0,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
    ], "down to 90 % with the new one: 1 and 2 were the oldest"
    fill(cache, range(11, 19))
    assert held(cache, range(20)) == [0, 4, *range(10, 18)], "never those of this run: then the new one has to stay out"
    assert disk_bytes(tmp_path) == 100 * KB
    assert module.stored_total(tmp_path) == 100 * KB


def test_a_full_cache_of_half_the_data_hits_half_the_time(tmp_path: Path) -> None:
    """Shuffled epochs; evicting the oldest of this run would hit 15 % (simulated alongside)."""
    cache, lru, rng = DiskCache(tmp_path, 500 * KB, "d"), [], random.Random(0)
    hits = lru_hits = 0
    for epoch in range(4):
        for offset in rng.sample(range(100), 100):
            found = cache.get("t", offset, 10 * KB)
            if found is None:
                cache.put("t", offset, 10 * KB, bytes(10 * KB))
            hits += bool(found and epoch)
            lru_hits += bool(offset in lru and epoch)
            if offset in lru:
                lru.remove(offset)
            lru = [*lru, offset][-50:]
    assert hits == 150
    assert lru_hits < 75


def test_what_is_larger_than_the_cache_stays_out(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 5 * KB, "d")
    fill(cache, range(1))
    assert disk_bytes(tmp_path) == 0


_FILLER = """
import random, sys
sys.path[:0] = sys.argv[5:]
from pipeline.data.fetch.cache import DiskCache
folder, seed, limit, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng, cache = random.Random(seed), DiskCache(folder, limit, "d")
cache._opened_s += 1e6      # everything may go: the hardest case for the others
print("begun", flush=True)
for _ in range(count):
    offset = rng.randrange(60)
    wanted = random.Random(f"t {offset}").randbytes(5000 + 100 * offset)
    found = cache.get("t", offset, len(wanted))
    assert found in (None, wanted), offset
    if found is None:
        cache.put("t", offset, len(wanted), wanted)
"""


def start_filler(folder: Path, seed: int, limit: int, count: int) -> subprocess.Popen[str]:
    root = str(Path(module.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", _FILLER, str(folder), str(seed), str(limit), str(count), root],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_fill_evict_and_are_killed_leave_whole_files_within_the_limit(tmp_path: Path) -> None:
    limit, most = 150 * KB, 0
    doomed = [start_filler(tmp_path, seed, limit, 10**9) for seed in range(2)]
    steady = [start_filler(tmp_path, seed, limit, 6000) for seed in (2, 3)]
    assert all(child.stdout and child.stdout.readline() for child in (*doomed, *steady))
    began_s = time.monotonic()
    while any(child.poll() is None for child in steady):
        most = max(most, _racing_bytes(tmp_path))
        time.sleep(0.002)
        if doomed and time.monotonic() - began_s > 0.2:
            doomed[-1].send_signal(signal.SIGKILL)
            doomed.pop().wait()
            began_s = time.monotonic()
    assert not doomed, "too quick: raise the count of the steady ones"
    assert [child.wait() for child in steady] == [0, 0], "each read either nothing or the right bytes"
    in_flight = 4 * 11 * KB
    assert 0 < most <= limit + in_flight
    (tmp_path / "new-leftover").write_bytes(b"half a fi")
    cache = DiskCache(tmp_path, limit, "d")
    assert not list(tmp_path.glob("new-*")), "leftovers of the killed are swept"
    found = [cache.get("t", offset, 5000 + 100 * offset) for offset in range(60)]
    assert any(found)
    assert all(
        data is None or data == random.Random(f"t {offset}").randbytes(5000 + 100 * offset)
        for offset, data in enumerate(found)
    )


def _racing_bytes(folder: Path) -> int:
    total = 0
    for name, _, files in os.walk(folder):
        for file in files:
            if file not in ("total", "sweeping"):
                try:
                    total += os.stat(os.path.join(name, file)).st_size
                except FileNotFoundError:
                    continue
    return total


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    fill(DiskCache(tmp_path, 100 * KB, "d"), range(2))
    (tmp_path / "new-left").write_bytes(b"half")
    (tmp_path / "news").write_bytes(b"somebody else's")
    assert held(DiskCache(tmp_path, 100 * KB, "d"), range(2)) == [0, 1]
    assert not (tmp_path / "new-left").exists()
    assert (tmp_path / "news").exists()


def test_a_file_being_written_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = DiskCache(tmp_path, 100 * KB, "d"), []
    rename = os.replace

    def slow_rename(source: str, target: Path) -> None:
        DiskCache(tmp_path, 100 * KB, "d")  # sweeps
        seen.append(os.path.exists(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", slow_rename)
    fill(cache, range(1))
    assert seen == [True]
    assert held(cache, range(1)) == [0]


def test_a_lost_or_wrong_total_is_counted_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100 * KB, "d")
    fill(cache, range(5))
    (tmp_path / "total").unlink()
    fill(cache, range(5, 6))
    assert module.stored_total(tmp_path) == 60 * KB
    (tmp_path / "total").write_bytes(
        module._TOTAL.pack(10**9)
    )  # as after many processes that were killed between count and file
    fill(cache, range(6, 7))
    assert module.stored_total(tmp_path) == disk_bytes(tmp_path) == 70 * KB


@pytest.mark.parametrize("where", ["write", "folder"])
def test_a_disk_that_fails_warns_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    folder = tmp_path / "cache"
    if where == "folder":
        folder.write_text("a file stands there")
        cache = DiskCache(folder, 100 * KB, "d")
    else:
        cache = DiskCache(folder, 100 * KB, "d")
        fill(cache, range(2))

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
    fill(cache, range(5))
    assert [cache.get("train/a.tar", offset, 10 * KB) is not None for offset in range(3)] == (
        [True, True, False] if where == "write" else [False] * 3
    )
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert (
        f"the cache in {folder} (data.cache_dir) is {'not filled' if where == 'write' else 'not used'}" in warnings[0]
    )
    assert warnings[0].endswith("No space left on device" if where == "write" else f"File exists: '{folder}'")
    assert not list(tmp_path.rglob("new-*"))


class CountingStorage(LocalStorage):
    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.reads: list[int] = []
        self.flip = 0

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.reads.append(offset)
        data = bytearray(super().read_range(path, offset, length))
        if self.flip > 0:
            self.flip -= 1
            data[length // 2] ^= 1
        return bytes(data)


def test_samples_come_from_the_cache_and_damage_never_does(
    counter_set, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = load_index(counter_set.storage, counter_set.manifest, "train", ("rgb",))
    storage, metrics, lock = CountingStorage(str(counter_set.root)), FetchMetrics(), threading.Lock()
    cache = DiskCache(tmp_path, 10**9, counter_set.manifest.digest)
    request = index.sample_range(3)
    size = request.size

    def read() -> object:
        return read_sample(storage, request, metrics, lock, cache)

    right = read()
    assert read() == right
    assert (len(storage.reads), metrics.cache_hits, metrics.cache_misses, metrics.cache_bytes, metrics.bytes) == (
        1,
        1,
        1,
        size,
        size,
    )
    path = cache._path(request.tar, request.offset, size)
    for damaged in (
        b"",
        path.read_bytes()[:-1],
        path.read_bytes() + b"x",
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:],
    ):
        path.write_bytes(damaged)
        assert read() == right, "fetched again"
        assert path.stat().st_size == size, "and put back whole"
        assert read() == right
    assert len(storage.reads) == 5
    assert metrics.cache_misses == 5
    assert sum("cached copy is damaged" in r.message for r in caplog.records) == 4

    path.unlink()
    storage.flip = 1
    assert read() == right, "the second GET's bytes are right, and they are kept"
    assert len(storage.reads) == 7
    assert read() == right
    path.write_bytes(b"damaged")
    storage.flip = 2
    assert isinstance(read(), Damaged)
    assert len(storage.reads) == 9, "both GETs went past the cache"
    assert not path.exists(), "damage is not kept"
