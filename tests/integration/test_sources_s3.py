"""Videos and archives in a bucket of the real S3 gateway: listing, downloads in pieces, access inside archives."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator

import pytest

from pipeline.config.stack import Stack, find_stack
from pipeline.errors import RejectedSource, StorageSetupError
from pipeline.storage import open_storage
from preprocessing.annotations import read_annotations
from preprocessing.sources import open_sources
from tests.support.paths import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
VIDEOS = {
    "walk/a b+c.mp4": os.urandom(20_000_000),
    "walk/ünï%20.mp4": b"12345",
    "run/empty.mp4": b"",
    "run/x#1.avi": os.urandom(100_000),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("stack")))
        patch.delenv("RECIPROCAL_STACK", raising=False)

        def local(*arguments: str) -> None:
            subprocess.run(
                [sys.executable, "-m", "infra.local", *arguments],
                cwd=ROOT,
                check=True,
                capture_output=True,
                timeout=150,
            )

        try:
            local("up", "--ray-cpus", "1")
            found = find_stack()
            assert found is not None
            yield found
        finally:
            local("down")


@pytest.fixture(scope="module")
def uri(stack: Stack) -> str:
    uri = f"s3://{stack.bucket}/raw videos"
    storage = open_storage(uri)
    for name, data in VIDEOS.items():
        storage.write(f"plain/{name}", data)
    storage.write("plain/.hidden.mp4", b"x")
    tar, gz, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for target, mode in ((tar, "w:"), (gz, "w:gz")):
        with tarfile.open(fileobj=target, mode=mode) as archive:
            for name, data in VIDEOS.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in VIDEOS.items():
            archive.writestr(name, data)
    for name, target in (("tar/x.tar", tar), ("gz/x.tar.gz", gz), ("zip/x.zip", packed)):
        storage.write(name, target.getvalue())
    return uri


@pytest.mark.parametrize("place", ["plain", "tar", "gz", "zip", "gz/x.tar.gz"])
def test_all_places_hold_the_same_videos(uri, place):
    store = open_sources(f"{uri}/{place}")
    assert dict(store.walk()) == {name: len(data) for name, data in VIDEOS.items()}
    other = pickle.loads(pickle.dumps(store))
    for name, data in VIDEOS.items():
        with other.local(name) as file:
            assert file.read_bytes() == data
        assert not file.exists()
    for name, reason in {"walk/none.mp4": "missing", "../plain/run/x#1.avi": "unsafe_path"}.items():
        with pytest.raises(RejectedSource, match=reason), other.local(name):
            pass
    found = read_annotations("folder", store)
    assert (found.classes, len(found.sources)) == (("run", "walk"), 4)


def test_lists_in_the_bucket(uri, tmp_path):
    open_storage(uri).write("lists/mine.csv", b"path,label\nwalk/a b+c.mp4,walk\nnone.mp4,run\n")
    for lists in (f"{uri}/lists", f"{uri}/lists/mine.csv"):
        found = read_annotations("csv", open_sources(f"{uri}/plain"), lists)
        assert [s.path for s in found.sources] == ["walk/a b+c.mp4", "none.mp4"]


def test_a_bucket_that_is_not_there(stack):
    with pytest.raises(StorageSetupError, match="does not exist"):
        list(open_sources("s3://no-such-bucket-here/x").walk())
