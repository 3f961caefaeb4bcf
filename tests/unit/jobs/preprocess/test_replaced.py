"""A source that was replaced by another of the same size is noticed, and no stored byte depends on times."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.preprocess.replaced import NOTES, note_sources, replaced_shards
from pipeline.storage import Storage, open_storage
from preprocessing.annotations import read_folder
from preprocessing.shard.plan import ShardPlan, plan_shards
from preprocessing.sources import SourceStore, open_sources
from tests.support.memory_s3 import MemoryS3

NAMES = [f"{cls}/{i}.mp4" for cls in ("run", "walk") for i in range(4)]


def write(root: Path, name: str, data: bytes, at_s: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    os.utime(root / name, (at_s, at_s))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        write(tmp_path / "videos", name, b"1234", 1_000)
    return tmp_path / "videos"


@pytest.fixture
def out(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/out")


def planned(place: object) -> tuple[list[ShardPlan], SourceStore]:
    store = open_sources(str(place))
    annotations = read_folder(store)
    paths = [source.path for source in annotations.sources]
    return plan_shards(annotations, store.sizes(paths), 2, store.versions(paths)), store


def again(place: object, out: Storage, *, finished: bool = False) -> frozenset[str]:
    return replaced_shards(*planned(place), out, finished=finished)


def shard_of(plans: list[ShardPlan], name: str) -> str:
    return next(plan.path for plan in plans if name in [source.path for source in plan.sources])


def test_a_replaced_file_of_equal_size_has_its_shard_built_again(
    root: Path, out: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    plans, store = planned(root)
    note_sources(plans, (), store, out)
    assert again(root, out) == frozenset()
    write(root, "run/1.mp4", b"abcd", 2_000)
    changed = shard_of(plans, "run/1.mp4")
    assert again(root, out) == {changed}
    assert "the files of 1 shard (first: " in caplog.text
    assert "it is built again" in caplog.text
    note_sources(*planned(root)[:1], {plan.path for plan in plans} - {changed}, store, out)
    assert again(root, out) == frozenset(), "it is noted as built"


def test_another_size_is_the_records_own_affair(root: Path, out: Storage, caplog: pytest.LogCaptureFixture) -> None:
    plans, store = planned(root)
    note_sources(plans, (), store, out)
    write(root, "run/1.mp4", b"longer", 2_000)
    assert again(root, out) == frozenset()
    assert caplog.records == []


def test_a_finished_data_set_stays_and_the_log_says_so_every_time(
    root: Path, out: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    plans, store = planned(root)
    note_sources(plans, (), store, out)
    write(root, "run/1.mp4", b"abcd", 2_000)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert again(root, out, finished=True) == frozenset()
        assert "--overwrite builds it again" in caplog.text
        note_sources(planned(root)[0], [plan.path for plan in plans], store, out)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryS3]:
    server = MemoryS3()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield server
    server.close()


def test_in_a_bucket_the_etag_tells(bucket: MemoryS3, out: Storage) -> None:
    bucket.objects |= {f"videos/{name}": b"1234" for name in NAMES}
    plans, store = planned("s3://bucket/videos")
    note_sources(plans, (), store, out)
    assert again("s3://bucket/videos", out) == frozenset()
    bucket.objects["videos/walk/2.mp4"] = b"abcd"
    assert again("s3://bucket/videos", out) == {shard_of(plans, "walk/2.mp4")}


def test_of_an_archive_its_own_time_tells(root: Path, out: Storage, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "tar", root))
    plans, store = planned(archive)
    note_sources(plans, (), store, out)
    assert again(archive, out) == frozenset()
    os.utime(archive, (5_000, 5_000))
    assert again(archive, out) == {plan.path for plan in plans}


def test_the_same_videos_elsewhere_are_no_others_and_give_the_same_fingerprints(
    root: Path, out: Storage, tmp_path: Path
) -> None:
    plans, store = planned(root)
    note_sources(plans, (), store, out)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert again(tmp_path / "copy", out) == frozenset()
    copied, _ = planned(tmp_path / "copy")
    assert [plan.sources_sha256 for plan in copied] == [plan.sources_sha256 for plan in plans]
    assert [plan.versions_sha256 for plan in copied] != [plan.versions_sha256 for plan in plans]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"source": 1}', b"[" * 100_000, b"\xff"])
def test_notes_that_cannot_be_read_count_as_none(root: Path, out: Storage, content: bytes) -> None:
    out.write(NOTES, content)
    assert again(root, out) == frozenset()
