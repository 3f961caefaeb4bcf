"""jobs.preprocess on a real, private Ray: a whole run, a second run, refusals, and a video that kills its worker."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from jobs.preprocess.command import PreprocessConfig, main, preprocess
from pipeline.config.preprocess import StoredConfig
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.errors import ConfigError, ReciprocalError, UserError
from pipeline.storage import open_storage
from preprocessing.synthetic.generate import SyntheticConfig, generate
from tests.support.paths import ROOT

PLAIN = StoredConfig(short_side=32, modalities=("rgb", "diff"))  # no flow: these tests are about the job


def _poison_setup() -> None:
    """Runs in every worker: a file whose name says so takes the process down, as a crash inside a decoder does."""
    import os

    from preprocessing.shard import stages

    real = stages.VideoReader

    def read_or_die(source, **kwargs):
        if "poison" in str(source):
            os._exit(139)
        return real(source, **kwargs)

    stages.VideoReader = read_or_die


@pytest.fixture(scope="module", autouse=True)
def private_ray():
    """One small Ray for this file; the job joins a Ray that its process is connected to already."""
    os.environ["RECIPROCAL_STACK"] = "off"
    root = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": _poison_setup, "env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "set"
    generate(SyntheticConfig(out=out, train=3, val=1, test=1, appearances=2, motions=1, min_frames=6, max_frames=8))
    return out


@pytest.fixture
def ready(toy: Path, tmp_path: Path) -> Path:
    """A copy of the set with one listed video gone and one that is no video: 10 listed, 8 good."""
    work = tmp_path / "set"
    shutil.copytree(toy, work)
    gone, page = (
        work / "videos" / line.rsplit(" ", 1)[0] for line in (work / "trainlist01.txt").read_text().splitlines()[:2]
    )
    gone.unlink()
    page.write_text("<html>not found</html>")
    return work


def config(work: Path, tmp_path: Path, **changes) -> PreprocessConfig:
    fields = {
        "format": "ucf101",
        "source": str(work / "videos"),
        "annotations": str(work),
        "out": f"file://{tmp_path}/out",
        "samples_per_shard": 3,
        "max_rejects": "1",
        "stored": PLAIN,
    }
    return PreprocessConfig(**{**fields, **changes})


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file."""
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_whole_run_and_what_a_second_one_does(ready, tmp_path, capsys):
    manifest = preprocess(config(ready, tmp_path))
    storage = open_storage(f"file://{tmp_path}/out")
    assert manifest == read_manifest(storage)
    assert (manifest.num_inputs, manifest.num_samples, manifest.num_rejects) == (10, 8, 2)
    assert manifest.split_sizes() == {"train": 4, "val": 2, "test": 2}
    assert manifest.dataset == "out"
    records = read_records(storage, manifest, "train")
    listed = {line.rsplit(" ", 1)[0] for line in (ready / "trainlist01.txt").read_text().splitlines()}
    assert {s.source for r in records for s in r.samples} | {x.source for r in records for x in r.rejects} == listed
    assert sorted(x.reason for r in records for x in r.rejects) == ["missing", "not_video"]
    for entry in manifest.shards:
        assert hashlib.sha256((tmp_path / "out" / f"{entry.path}.tar").read_bytes()).hexdigest() == entry.sha256
    text = capsys.readouterr().out
    assert "10 videos = 8 samples + 2 rejected (1 missing, 1 for other reasons)" in text
    assert "1 of 10 videos are missing, in 1 class:" in text
    assert manifest.digest in text

    before = snapshot(tmp_path / "out")
    assert preprocess(config(ready, tmp_path)) == manifest
    assert snapshot(tmp_path / "out") == before, "a second run touched a finished data set"
    assert "4 shards are stored already, 0 to build" in capsys.readouterr().out

    lost = tmp_path / "out/train/shard-000001.tar"  # damage is repaired with the same bytes
    lost.unlink()
    assert preprocess(config(ready, tmp_path)).digest == manifest.digest
    assert {k: v[0] for k, v in snapshot(tmp_path / "out").items()} == {k: v[0] for k, v in before.items()}
    assert "3 shards are stored already, 1 to build" in capsys.readouterr().out

    with pytest.raises(
        UserError, match=r"made with other parameters \(crf 20 -> 30\): use another --out, or --overwrite"
    ):
        preprocess(config(ready, tmp_path, stored=StoredConfig(short_side=32, modalities=("rgb", "diff"), crf=30)))
    with pytest.raises(UserError, match=r"made of other videos \(or with another --samples-per-shard\)"):
        preprocess(config(ready, tmp_path, samples_per_shard=6))
    with pytest.raises(UserError, match=r"made as data set 'out' with 2 classes, not 'new'"):
        preprocess(config(ready, tmp_path, name="new"))
    assert {k: v[0] for k, v in snapshot(tmp_path / "out").items()} == {k: v[0] for k, v in before.items()}

    replaced = preprocess(config(ready, tmp_path, samples_per_shard=8, overwrite=True))
    assert replaced.digest != manifest.digest
    assert replaced.num_inputs == 10
    names = {f"{s.path}.{e}" for s in replaced.shards for e in ("tar", "idx", "json")} | {
        "manifest.json",
        ".sources.json",
    }
    assert set(snapshot(tmp_path / "out")) == names, "shards of the replaced data set are left over"


def test_an_interrupted_run_resumes(ready, tmp_path, capsys):
    with pytest.raises(
        ReciprocalError,
        match=(
            r"^1 of 9 videos are rejected, more than --max-rejects 0: fix them, or allow more; 1 not_video; the first:"
            r" \w+/\w+.mp4 \(\w+\): not_video: .*$"
        ),
    ):
        preprocess(config(ready, tmp_path, max_rejects="0"))
    assert not (tmp_path / "out/manifest.json").exists()
    done = len(list((tmp_path / "out").rglob("shard*.json")))
    capsys.readouterr()
    manifest = preprocess(config(ready, tmp_path))
    assert manifest.num_inputs == 10
    if done:  # shards that were finished before the stop are not made again
        assert re.search(rf"{done} shards? (is|are) stored already", capsys.readouterr().out)


@pytest.mark.long
def test_a_video_that_was_missing_is_noticed_when_it_comes_back(toy, ready, tmp_path):
    preprocess(config(ready, tmp_path))
    shutil.copytree(toy / "videos", ready / "videos", dirs_exist_ok=True)
    with pytest.raises(
        UserError, match=r"made of other videos.*if rejected videos were fixed or have arrived: --retry-rejected"
    ):
        preprocess(config(ready, tmp_path))
    before = snapshot(tmp_path / "out")
    manifest = preprocess(config(ready, tmp_path, retry_rejected=True))
    assert (manifest.num_samples, manifest.num_rejects) == (10, 0)
    after = snapshot(tmp_path / "out")
    kept = {path for path in before if before[path] == after[path]}
    assert len([path for path in kept if path.endswith(".tar")]) >= 2, "shards without a reject were built again"
    fresh = preprocess(config(ready, tmp_path, out=f"file://{tmp_path}/fresh", name="out"))
    assert {k: v[0] for k, v in snapshot(tmp_path / "fresh").items()} == {k: v[0] for k, v in after.items()}
    assert fresh.digest == manifest.digest


def test_a_dry_run_measures_and_writes_nothing(ready, tmp_path, capsys):
    assert preprocess(config(ready, tmp_path, dry_run=True, dry_run_clips=3)) is None
    text = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "9 found, 1 missing" in text
    assert re.search(r"core-hours\s+│\s+0\.\d+ ± 0\.\d+", text), text
    assert re.search(r"storage\s+│\s+[\d.]+ [kM]B", text)


def test_shards_of_only_missing_videos_need_no_worker(tmp_path, toy):
    rows = [f"class_{i % 4},id{i:09d}" for i in range(400)]
    lists = tmp_path / "list.csv"
    present = sorted((toy / "videos").rglob("*.mp4"))[:2]
    relative = [p.relative_to(toy / "videos").as_posix() for p in present]
    lines = [
        *(f"{row.split(',')[1]}.mp4,{row.split(',')[0]}" for row in rows),
        *(f"{path},class_{i}" for i, path in enumerate(relative)),
    ]
    lists.write_text("path,label\n" + "\n".join(lines) + "\n")
    manifest = preprocess(config(toy, tmp_path, format="csv", annotations=str(lists), samples_per_shard=20))
    assert (manifest.num_inputs, manifest.num_samples, manifest.num_rejects) == (402, 2, 400)
    assert manifest.reject_reasons() == {"missing": 400}
    stored = snapshot(tmp_path / "out")
    assert sum(path.endswith(".json") for path in stored) == len(manifest.shards) + 2, "records, manifest, notes"
    assert sum(path.endswith(".tar") for path in stored) <= 2


def test_a_video_that_kills_its_worker_is_found_and_rejected(ready, tmp_path):
    lines = (ready / "trainlist01.txt").read_text().splitlines()
    path = lines[2].rsplit(" ", 1)[0]
    (ready / "videos" / path).rename(ready / "videos" / path.replace(".mp4", "_poison.mp4"))
    (ready / "trainlist01.txt").write_text(
        "\n".join([*lines[:2], lines[2].replace(".mp4", "_poison.mp4"), *lines[3:]]) + "\n"
    )
    manifest = preprocess(config(ready, tmp_path, max_rejects="2"))
    assert (manifest.num_inputs, manifest.num_samples, manifest.num_rejects) == (10, 7, 3)
    rejects = [x for r in read_records(open_storage(f"file://{tmp_path}/out"), manifest, "train") for x in r.rejects]
    assert [(x.source, x.reason) for x in rejects if "poison" in x.source] == [
        (path.replace(".mp4", "_poison.mp4"), "crashed")
    ]


def test_folder_format_with_flow(toy, tmp_path):
    root = tmp_path / "tree"
    for split in ("train", "val"):
        for line in (toy / f"{split}list01.txt").read_text().splitlines()[:: 3 if split == "train" else 1]:
            source = line.rsplit(" ", 1)[0]
            (root / split / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(toy / "videos" / source, root / split / source)
    assert (
        main(
            [
                "--format",
                "folder",
                "--source",
                str(root),
                "--out",
                f"file://{tmp_path}/out",
                "--name",
                "tree",
                "--stored.short-side",
                "32",
            ]
        )
        == 0
    )
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["totals"]["splits"] == {"train": 2, "val": 2}
    assert manifest["modalities"] == ["rgb", "flow", "diff"]
    assert manifest["dataset"] == "tree"


def test_refused_before_ray_is_touched(ready, tmp_path):
    with pytest.raises(ConfigError, match=r"out = '/somewhere': give s3://BUCKET/PREFIX or file:///FOLDER"):
        config(ready, tmp_path, out="/somewhere")
    with pytest.raises(ConfigError, match=r"max_rejects = '5 percent': give a number \(100\) or a share"):
        config(ready, tmp_path, max_rejects="5 percent")
    with pytest.raises(ReciprocalError, match=r"1 of 10 videos are missing, more than --max-missing 0%"):
        preprocess(config(ready, tmp_path, max_missing="0%"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"annotations = .* the folder format has no lists"):
        config(ready, tmp_path, format="folder")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below cannot be written"):
        preprocess(config(ready, tmp_path, out=f"file://{tmp_path}/file/below"))
    with pytest.raises(ConfigError, match="is not a folder on this machine"):
        preprocess(config(tmp_path / "none", tmp_path))


def test_exit_code_of_a_refusal(ready, tmp_path):
    command = [
        sys.executable,
        "-m",
        "jobs.preprocess",
        "--format",
        "ucf101",
        "--source",
        str(ready),
        "--annotations",
        str(ready),
        "--out",
        f"file://{tmp_path}/out",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "did you mean --source" in done.stderr
    assert "Traceback" not in done.stderr
