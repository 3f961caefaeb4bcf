"""--out and --source never lie in one another, and data sets below a source are no videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.preprocess import command
from jobs.preprocess.places import check_apart
from pipeline.errors import ConfigError, UserError
from pipeline.storage import Storage
from tests.support.preprocess_here import config


@pytest.mark.parametrize(
    ("source", "out", "how"),
    [
        ("s3://b/videos", "s3://b/videos/out", "inside"),
        ("s3://b", "s3://b/out", "inside"),
        ("s3://b/videos/", "s3://b/videos", "the same place as"),
        ("s3://b/sets/videos", "s3://b/sets", "around"),
        ("{0}/videos", "file://{0}/videos/out", "inside"),
        ("file://{0}/videos", "file://{0}/videos/", "the same place as"),
        ("{0}/videos/../videos/", "file://{0}/videos/a/b", "inside"),
        ("{0}/sets/videos", "file://{0}/sets", "around"),
        ("{0}/link", "file://{0}/videos/out", "inside"),
        ("{0}/videos", "file://{0}/link/out", "inside"),
    ],
)
def test_a_nested_out_is_refused_and_both_are_named(tmp_path: Path, source: str, out: str, how: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    source, out = source.format(tmp_path), out.format(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_apart(source, out)
    assert str(caught.value).startswith(f"out = {out!r}: is {how} --source {source}, ")
    assert "give an --out beside it" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("s3://b/videos", "s3://b/videos-out"),
        ("s3://b/videos", "s3://c/videos/out"),
        ("s3://b/videos", "file:///b/videos/out"),
        ("/data/videos", "file:///data/videos2"),
        ("/data/videos.tar", "file:///data/out"),
    ],
)
def test_places_beside_each_other_are_accepted(source: str, out: str) -> None:
    check_apart(source, out)


@pytest.mark.parametrize("out", ["s3://bucket", "s3://bucket/", "s3:///", "s3:///x"])
def test_a_data_set_has_a_prefix_of_its_own(videos: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(ConfigError, match=r"a data set needs a place of its own in the bucket.*s3://BUCKET/PREFIX"):
        config(videos, tmp_path, out=out)


def test_a_path_that_leaves_the_source_is_announced_and_counts_as_rejected_not_as_missing(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_this_process: object
) -> None:
    first = next((videos / "videos").rglob("*.mp4")).relative_to(videos / "videos")
    (tmp_path / "list.csv").write_text(f"path,label,split\n{first},a,train\n../outside.mp4,a,train\nno.mp4,a,train\n")
    changes = {"format": "csv", "annotations": str(tmp_path / "list.csv"), "max_rejects": "1"}
    manifest = command.preprocess(config(videos, tmp_path, **changes))
    out = capsys.readouterr().out
    assert "1 of 3 listed paths leads out of --source and will be rejected (unsafe_path), such as ../outside.mp4" in out
    assert "1 of 3 videos are missing" in out
    assert manifest is not None
    assert sum(shard.num_samples for shard in manifest.shards) == 1


def test_the_command_refuses_a_nested_out_before_it_writes(videos: Path, tmp_path: Path) -> None:
    for changes in ({}, {"format": "folder", "annotations": ""}):
        with pytest.raises(UserError, match="is inside --source"):
            command.preprocess(config(videos, tmp_path, out=f"file://{videos}/videos/out", **changes))
    assert not (videos / "videos" / "out").exists()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.slow
def test_a_data_set_below_a_folder_source_changes_nothing(
    videos: Path, tmp_path: Path, out: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    asked = config(videos, tmp_path, format="folder", annotations="")
    before = command.preprocess(asked)
    copy = tmp_path / "copy"
    shutil.copytree(videos / "videos", copy)
    shutil.copytree(tmp_path / "out", copy / "old")
    again = config(
        videos, tmp_path, format="folder", annotations="", source=str(copy), out=f"file://{tmp_path}/2", name="out"
    )
    assert command.preprocess(again) == before
    assert f"left out 1 data set made by jobs.preprocess, which is no videos: {copy}/old" in caplog.text
