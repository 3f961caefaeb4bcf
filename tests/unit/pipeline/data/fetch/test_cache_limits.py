"""The cache on local disk at its limit: what is swept, how often, and what nobody else may read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipeline.data.fetch import cache as module
from pipeline.data.fetch.cache import DiskCache

KB = 1000


def put(cache: DiskCache, *offsets: int) -> None:
    for offset in offsets:
        cache.put("t", offset, 10 * KB, bytes(10 * KB))


def stored_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


def count_sweeps(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sweeps, sweep = [], cache._sweep_leftovers

    def counted() -> None:
        sweeps.append(1)
        sweep()

    monkeypatch.setattr(cache, "_sweep_leftovers", counted)
    return sweeps


def test_a_full_cache_is_swept_once_a_minute_not_with_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep stats every file. All files were read by this run, so none may go and the next sweep would find none."""
    cache = DiskCache(tmp_path, 50 * KB, "d")
    clock_s = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock_s[0])
    sweeps = count_sweeps(cache, monkeypatch)
    put(cache, *range(5))
    assert not sweeps, "there is room for exactly five"
    put(cache, *range(5, 15))
    assert len(sweeps) == 1
    clock_s[0] += 59
    put(cache, 15)
    assert len(sweeps) == 1
    clock_s[0] += 2
    put(cache, 16)
    assert len(sweeps) == 2
    assert len(stored_files(tmp_path)) == 5
    assert module.stored_total(tmp_path) == 50 * KB


def test_room_that_others_take_after_a_sweep_is_not_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path, 50 * KB, "d")
    put(cache, *range(5))
    monkeypatch.setattr(cache, "_evict", lambda num_bytes: True)  # swept, and another process was quicker
    put(cache, 5)
    assert len(stored_files(tmp_path)) == 5
    assert module.stored_total(tmp_path) == 50 * KB


def test_while_another_process_sweeps_samples_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path, 50 * KB, "d")
    put(cache, *range(5))
    sweeps = count_sweeps(cache, monkeypatch)
    with (tmp_path / "sweeping").open("ab") as lock:
        module.fcntl.flock(lock, module.fcntl.LOCK_EX)
        assert not cache._evict(1)
    assert not sweeps


def test_files_are_their_owners_alone_and_the_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a/b/cache"
    put(DiskCache(folder, 50 * KB, "d"), 0)
    (file,) = stored_files(folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} == {"total", file.parent.name}, "temporary files lie in the folder"


def test_a_total_that_was_cut_off_counts_as_none(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 50 * KB, "d")
    put(cache, 0)
    (tmp_path / "total").write_bytes(b"\x01\x02")
    assert module.stored_total(tmp_path) == 0
    put(cache, 1)
    assert module.stored_total(tmp_path) == 20 * KB, "counted again"


def test_a_link_in_the_folder_is_neither_counted_nor_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(30 * KB))
    folder = tmp_path / "cache"
    cache = DiskCache(folder, 20 * KB, "d")
    put(cache, 0)
    (folder / "zz").symlink_to(outside)
    cache._opened_s += 1e6  # everything of the cache may go
    put(cache, 1, 2, 3)
    assert (outside / "precious").exists()
    assert cache.stored_bytes() <= 20 * KB
