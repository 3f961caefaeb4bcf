"""jobs.verify and jobs.report as commands: exit codes, what they print, and the same result by threads and by Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import report as report_job
from jobs.verify import command as verify_job
from jobs.verify import tasks as verify_tasks
from pipeline.errors import ConfigError, ManifestError, StorageError, UserError
from pipeline.storage import LocalStorage
from tests.support.stored_set import clips_of, store_manifest, store_shard


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    folder = tmp_path_factory.mktemp("sound")
    storage = LocalStorage(str(folder / "set"))
    made = clips_of({"train/shard-000000": 1, "train/shard-000001": 1})
    store_manifest(storage, [store_shard(storage, folder, *path.split("/"), clips) for path, clips in made.items()])
    return storage


@pytest.fixture
def damaged(sound: LocalStorage, tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(str(tmp_path / "damaged"))
    for path in sound.list():
        storage.write(path, sound.read(path))
    storage.delete("train/shard-000001.idx")
    storage.write("train/shard-000000.tar", storage.read("train/shard-000000.tar")[:-512])
    storage.write("val/left.tar", b"x")
    return storage


EXPECTED = {("tar", "train/shard-000000"), ("missing", "train/shard-000001"), ("stray", "val/left.tar")}


def test_a_sound_set_is_code_0(sound: LocalStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_job.main([sound.uri, "--json", str(tmp_path / "v.json")]) == 0
    printed = capsys.readouterr().out
    assert "2 shards, 2 samples" in printed
    assert f"sound: {sound.uri} is what its manifest" in printed
    result = json.loads((tmp_path / "v.json").read_text())
    assert (
        result["sound"],
        result["faults"],
        result["samples"],
        result["samples_decoded"],
        result["frames_decoded"],
    ) == (True, [], 2, 2, 2 * 22)
    assert result["bytes"] == sum(sound.size(p) for p in sound.list() if p.endswith(".tar"))


def test_faults_are_code_1_and_all_named(
    damaged: LocalStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_job.main([damaged.uri, "--decode", "none", "--json", str(tmp_path / "v.json")]) == 1
    printed = capsys.readouterr().out
    assert "train/shard-000001/idx: missing: the index is not there" in printed
    assert "3 faults in" in printed
    result = json.loads((tmp_path / "v.json").read_text())
    assert {(f["kind"], f["shard"]) for f in result["faults"]} == EXPECTED
    assert (result["sound"], result["failures"]) == (False, {})


class FailingStorage(LocalStorage):
    """One shard's tar cannot be read."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if path == "train/shard-000000.tar":
            raise StorageError(f"{path}: 503 after 8 attempts")
        return super().read_range(path, offset, length)


@pytest.fixture
def private_ray() -> Iterator[None]:
    import ray

    yield
    ray.shutdown()


def test_a_failing_storage_is_code_1_and_no_fault(
    sound: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify_job, "open_storage", lambda uri: FailingStorage(str(sound.root)))
    assert verify_job.main([sound.uri, "--json", str(tmp_path / "v.json")]) == 1
    assert "1 parts could not be verified (train/shard-000000: StorageError" in capsys.readouterr().out
    result = json.loads((tmp_path / "v.json").read_text())
    assert (result["faults"], list(result["failures"]), result["shards"]) == ([], ["train/shard-000000"], 1)


@pytest.mark.usefixtures("private_ray")
@pytest.mark.slow
def test_ray_finds_the_same(damaged: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify_job.main([damaged.uri, "--json", str(tmp_path / "threads.json")]) == 1
    monkeypatch.setattr(verify_tasks, "_FEW_SHARDS", 0)
    assert verify_job.main([damaged.uri, "--json", str(tmp_path / "ray.json")]) == 1
    threads, ray = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("threads", "ray"))
    assert {(f["kind"], f["shard"]) for f in ray["faults"]} == EXPECTED
    assert sorted(map(str, ray["faults"])) == sorted(map(str, threads["faults"]))
    for result in (threads, ray):
        del result["seconds"], result["faults"]
    assert ray == threads


def test_wrong_arguments_are_refused(sound: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no data set is finished there"):
        verify_job.main([f"file://{tmp_path}/none"])
    with pytest.raises(ManifestError, match="does not exist"):
        report_job.main([f"file://{tmp_path}/none", "--out", str(tmp_path / "r.html")])
    with pytest.raises(ConfigError, match="give s3://BUCKET/PREFIX"):
        verify_job.main(["/plain/folder"])
    with pytest.raises(ConfigError, match=r"decode = 'some': use all, none, or a number"):
        verify_job.main([sound.uri, "--decode", "some"])
    with pytest.raises(ConfigError, match="its folder does not exist"):
        report_job.main([sound.uri, "--out", str(tmp_path / "no" / "r.html")])
    with pytest.raises(ConfigError, match="is a folder"):
        report_job.main([sound.uri, "--out", str(tmp_path)])
    with pytest.raises(UserError, match="out"):
        report_job.main([sound.uri])
    assert not (tmp_path / "r.html").exists()


def test_the_page_is_written_whole(sound: LocalStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    out.write_text("old")
    assert report_job.main([sound.uri, "--out", str(out)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    printed = capsys.readouterr().out
    assert "2 samples of 2 classes" in printed
    assert "worth a look: 1 of 3 classes have no sample: sit." in printed
