"""Data sets of ours below a source are left out whole, in folders and in buckets, finished or not."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from preprocessing.annotations import read_folder
from preprocessing.sources import open_sources
from tests.support.memory_s3 import MemoryS3

VIDEOS = ("run/a.mp4", "walk/b.mp4", "walk/manifest.json")
Fill = Callable[[dict[str, bytes]], str]


@pytest.fixture(params=["folder", "bucket"])
def fill(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fill]:
    """Stores files; returns the URI of the source."""
    if request.param == "folder":

        def write(files: dict[str, bytes]) -> str:
            for name, data in files.items():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(data)
            return str(tmp_path)

        yield write
        return
    server = MemoryS3()
    for name, value in (
        ("AWS_ENDPOINT_URL", server.endpoint),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)

    def put(files: dict[str, bytes]) -> str:
        server.objects |= {f"videos/{name}": data for name, data in files.items()}
        return "s3://bucket/videos"

    yield put
    server.close()


@pytest.mark.parametrize(
    "mark",
    ["train/shard-000000.json", "val/shard-000003.idx", ".sources.json", ".lease-abc.json"],
)
def test_a_data_set_is_left_out_with_all_that_is_in_it(fill: Fill, mark: str, caplog: pytest.LogCaptureFixture) -> None:
    inside = {f"sets/old/{path}": b"1" for path in (mark, "train/shard-000000.tar", "other/c.mp4")}
    uri = fill(dict.fromkeys(VIDEOS, b"1") | inside)
    store = open_sources(uri, data_sets=False)
    assert set(store.listing()) == set(VIDEOS), "its tar would be no tar"
    assert [source.path for source in read_folder(store).sources] == ["run/a.mp4", "walk/b.mp4"]
    assert caplog.text.count(f"{uri}/sets/old") == 1, "said once"
    assert set(pickle.loads(pickle.dumps(store)).listing()) == set(VIDEOS)


def test_a_source_that_is_a_data_set_itself_is_refused(fill: Fill) -> None:
    uri = fill({"train/shard-000000.json": b"1", **dict.fromkeys(VIDEOS, b"1")})
    with pytest.raises(UserError, match=f"{uri} is itself a data set made by jobs.preprocess: give the folder"):
        open_sources(uri, data_sets=False).listing()


def test_a_data_set_that_has_only_begun_is_no_class(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "out/.lease-abc.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "out" / "train").mkdir()
    assert read_folder(open_sources(str(tmp_path), data_sets=False)).classes == ("run",)
