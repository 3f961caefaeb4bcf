"""--overwrite builds again what is damaged, and nothing else, to the same bytes; damaged manifests get one advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.preprocess import command
from jobs.verify import command as verify_job
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ManifestError, UserError
from pipeline.storage import Storage
from tests.support.preprocess_here import config

pytestmark = pytest.mark.usefixtures("in_this_process")
SHARD = "train/shard-000001"


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x55 for byte in data[middle : middle + 20]) + data[middle + 20 :]


def contents(out: Storage) -> dict[str, bytes]:
    return {path: out.read(path) for path in out.list()}


def other_label(record: bytes) -> bytes:
    return record.replace(b'"label": 0', b'"label": 1').replace(b'"label":0', b'"label":1')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "damage", "finished"),
    [
        pytest.param("tar", flip, True, id="tar"),
        pytest.param("tar", flip, False, id="tar of an unfinished set", marks=pytest.mark.slow),
        pytest.param("idx", flip, True, id="index", marks=pytest.mark.slow),
        pytest.param("json", other_label, False, id="label in the record, no manifest", marks=pytest.mark.slow),
        pytest.param("json", lambda data: data + b"\n", False, id="record not canonical", marks=pytest.mark.slow),
    ],
)
def test_overwrite_builds_damaged_shards_again_to_the_same_bytes(
    videos: Path, tmp_path: Path, out: Storage, ending: str, damage: Callable[[bytes], bytes], finished: bool
) -> None:
    command.preprocess(config(videos, tmp_path))
    sound = contents(out)
    damaged = damage(sound[f"{SHARD}.{ending}"])
    assert damaged != sound[f"{SHARD}.{ending}"]
    out.write(f"{SHARD}.{ending}", damaged)
    if not finished:
        out.delete("manifest.json")
    times = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in sound if path.endswith(".tar")}
    command.preprocess(config(videos, tmp_path, overwrite=True))
    assert contents(out) == sound
    built = {path for path, time_ns in times.items() if (tmp_path / "out" / path).stat().st_mtime_ns != time_ns}
    assert built == {f"{SHARD}.tar"}
    assert verify_job.main([out.uri]) == 0


@pytest.mark.slow
def test_verify_ends_with_the_fix(
    videos: Path, tmp_path: Path, out: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    fix = "the jobs.preprocess command that made it, with --overwrite, builds damaged shards again"
    command.preprocess(config(videos, tmp_path))
    assert verify_job.main([out.uri]) == 0
    assert fix not in capsys.readouterr().out
    out.write(f"{SHARD}.tar", flip(out.read(f"{SHARD}.tar")))
    assert verify_job.main([out.uri]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == fix


@pytest.mark.slow
def test_a_cut_manifest_gets_one_advice_which_works(videos: Path, tmp_path: Path, out: Storage) -> None:
    command.preprocess(config(videos, tmp_path))
    sound = contents(out)
    out.write("manifest.json", sound["manifest.json"][:100])
    with pytest.raises(UserError) as caught:
        command.preprocess(config(videos, tmp_path))
    assert str(caught.value).endswith("; run the same command with --overwrite, which writes it again")
    for other in ("another --out", "jobs.verify", "restore it"):
        assert other not in str(caught.value)
    command.preprocess(config(videos, tmp_path, overwrite=True))
    assert contents(out) == sound


def test_a_folder_in_the_place_of_the_manifest_is_called_one(videos: Path, tmp_path: Path, out: Storage) -> None:
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    said = r"out/manifest.json is not a file, but a folder: move it away"
    for read in (lambda: read_manifest(out), lambda: verify_job.main([out.uri])):
        with pytest.raises(ManifestError, match=said):
            read()
    for asked in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match=said):
            command.preprocess(config(videos, tmp_path, **asked))
    assert list(out.list()) == []
