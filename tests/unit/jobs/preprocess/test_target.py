"""The lease on --out: which other commands are refused, and what stops a manifest from being written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.preprocess import command
from jobs.preprocess.config import PreprocessConfig
from jobs.preprocess.target import lease_target
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ReciprocalError, UserError
from pipeline.storage import Storage, open_storage
from pipeline.storage.lease import Lease, LeaseLostError
from preprocessing.annotations import read_annotations
from preprocessing.shard.build import ShardSpec
from preprocessing.shard.plan import plan_shards
from preprocessing.sources import open_sources
from tests.support.preprocess_here import PLAIN, config

pytestmark = pytest.mark.usefixtures("in_this_process")


def lease_of(asked: PreprocessConfig) -> contextlib.AbstractContextManager[Lease]:
    """The lease that a command with these options holds while it runs."""
    store = open_sources(asked.source)
    annotations = read_annotations(asked.format, store, asked.lists)
    paths = [s.path for s in annotations.sources]
    plans = plan_shards(annotations, store.sizes(paths), asked.samples_per_shard, store.versions(paths))
    return lease_target(asked.dataset, ShardSpec.of(annotations.classes, asked.stored), plans, open_storage(asked.out))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stored": dataclasses.replace(PLAIN, crf=30)}, r"with other parameters \(crf 30 -> 20\)"),
        ({"samples_per_shard": 9}, r"with another plan \(shards 3 -> 4\)"),
        ({"name": "new"}, r"with another plan \(dataset 'new' -> 'out'\)"),
    ],
)
@pytest.mark.slow
def test_a_target_that_another_command_writes_is_refused_in_one_line(
    videos: Path, tmp_path: Path, out: Storage, changes: dict, said: str
) -> None:
    with lease_of(config(videos, tmp_path, **changes)):
        for asked in ({}, {"overwrite": True}):
            with pytest.raises(UserError) as caught:
                command.preprocess(config(videos, tmp_path, **asked))
            assert re.fullmatch(
                rf"file://{tmp_path}/out is being written by \S+ on \S+ \(process {os.getpid()}, since .* UTC\),"
                rf" {said}: wait until that command has ended, use another --out, or end it",
                str(caught.value),
            )
        assert [path for path in out.list() if not path.startswith(".lease-")] == [], "a refused command wrote"


@pytest.mark.slow
def test_a_command_that_writes_the_same_is_let_in_and_leaves_no_lease(
    videos: Path, tmp_path: Path, out: Storage
) -> None:
    with lease_of(config(videos, tmp_path)):
        manifest = command.preprocess(config(videos, tmp_path))
    assert manifest == read_manifest(out)
    assert list(out.list(".lease-")) == []


@pytest.mark.slow
def test_videos_that_arrive_meanwhile_make_another_plan(videos: Path, tmp_path: Path) -> None:
    files = sorted((videos / "videos").rglob("*.mp4"))
    hidden = files[0].rename(videos / "away.mp4")
    try:
        before = lease_of(config(videos, tmp_path))
    finally:
        hidden.rename(files[0])
    with before, pytest.raises(UserError, match=r"with other videos or labels: wait"):
        command.preprocess(config(videos, tmp_path))


@pytest.mark.slow
def test_a_refused_or_failed_command_leaves_no_lease(
    videos: Path, tmp_path: Path, out: Storage, in_this_process: list[Callable[[], object]]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    in_this_process.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        command.preprocess(config(videos, tmp_path))
    assert list(out.list(".lease-")) == []
    in_this_process.clear()
    command.preprocess(config(videos, tmp_path))
    with pytest.raises(UserError, match="was made with other parameters"):
        command.preprocess(config(videos, tmp_path, stored=dataclasses.replace(PLAIN, crf=30)))
    assert list(out.list(".lease-")) == []


@pytest.mark.parametrize("path", ["train/shard-000001.json", "train/shard-000001.tar"])
@pytest.mark.slow
def test_no_manifest_lists_a_shard_that_something_else_wrote_over(
    videos: Path, tmp_path: Path, out: Storage, in_this_process: list[Callable[[], object]], path: str
) -> None:
    in_this_process.append(lambda: out.write(path, b"{}"))
    with pytest.raises(ReciprocalError, match=r"1 of 4 shards \(first: train/shard-000001\) were changed by something"):
        command.preprocess(config(videos, tmp_path))
    assert not out.exists("manifest.json")
    in_this_process.clear()
    assert command.preprocess(config(videos, tmp_path)) == read_manifest(out)


@pytest.mark.slow
def test_a_manifest_that_another_command_wrote_meanwhile_stays(
    videos: Path, tmp_path: Path, out: Storage, in_this_process: list[Callable[[], object]]
) -> None:
    in_this_process.append(lambda: out.write("manifest.json", b"{}"))
    with pytest.raises(ReciprocalError, match="another command has finished another data set here meanwhile"):
        command.preprocess(config(videos, tmp_path))
    assert out.read("manifest.json") == b"{}"


@pytest.mark.slow
def test_a_command_that_lost_its_lease_writes_no_manifest(
    videos: Path, tmp_path: Path, out: Storage, in_this_process: list[Callable[[], object]]
) -> None:
    in_this_process.append(lambda: [out.delete(path) for path in out.list(".lease-")])
    with pytest.raises(LeaseLostError, match="has removed this one's lease"):
        command.preprocess(config(videos, tmp_path))
    assert not out.exists("manifest.json")


@pytest.mark.slow
def test_a_replaced_video_leaves_a_finished_data_set_alone_and_is_taken_with_overwrite(
    videos: Path, tmp_path: Path, out: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(videos, copy)
    before = command.preprocess(config(copy, tmp_path))
    assert before is not None
    listed = (copy / "trainlist01.txt").read_text().split()[0]
    file = copy / "videos" / listed
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # of equal size; at the end of the file, where no picture is
    file.write_bytes(data)
    os.utime(file, (1_000, 1_000))
    assert command.preprocess(config(copy, tmp_path)) == before
    assert "--overwrite builds it again" in caplog.text
    stored = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in out.list() if path.endswith(".json")}
    command.preprocess(config(copy, tmp_path, overwrite=True))
    built = [path for path, time_ns in stored.items() if (tmp_path / "out" / path).stat().st_mtime_ns != time_ns]
    assert len([path for path in built if "/shard-" in path]) == 1, "one shard holds the video"
