"""End to end on real servers: S3, MLflow and a Ray cluster of two nodes. One stack for the file, tests in order."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from infra import local, ray_head
from pipeline.checkpoints.listing import State, entries
from pipeline.config.data import ClipConfig, DataConfig
from pipeline.config.stack import Stack, find_stack, tracking_credentials
from pipeline.data.fetch.fetcher import Fetcher
from pipeline.data.fetch.read import FetchMetrics
from pipeline.data.loader import make_loader
from pipeline.dataset.manifest import read_manifest, read_records
from pipeline.dataset.shards import MemberRange, SampleRange
from pipeline.errors import StorageSetupError
from pipeline.evaluation.report import EvalReport
from pipeline.storage import Storage, open_storage
from pipeline.tracking.runs import client as tracking_client
from tests.support.paths import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(400)]

SMALL = [
    "--model.width",
    "0.125",
    "--model.hidden",
    "8",
    "--model.adapted",
    "8",
    "--model.num-steps",
    "4",
    "--clip.num-frames",
    "4",
    "--clip.crop",
    "32",
    "--clip.resize",
    "32",
    "--data.batch-size",
    "2",
    "--run.log-samples",
    "--run.log-steps",
    "2",
    "--run.spread",
]


def run(*args: str, timeout_s: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **env},
        check=False,
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RECIPROCAL_STACK", raising=False)
        try:
            local.up(ray_cpus=1)
            local.add_node(cpus=1)
            found = find_stack()
            assert found is not None
            yield found
        finally:
            local.down()
            shutil.rmtree(ray_head.temporary_folder().parent, ignore_errors=True)


@pytest.fixture(scope="module")
def data_uri(stack: Stack, tiny_set: str) -> str:
    """The raw videos behind ``tiny_set``, preprocessed by the job onto S3."""
    raw = Path(tiny_set.removeprefix("file://")).parent / "raw"
    uri = f"s3://{stack.bucket}/tiny"
    command = [
        "jobs.preprocess",
        "--format",
        "ucf101",
        "--source",
        str(raw / "videos"),
        "--annotations",
        str(raw),
        "--out",
        uri,
        "--stored.short-side",
        "32",
        "--samples-per-shard",
        "8",
    ]
    first = run(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "36 videos = 36 samples + 0 rejected" in first.stdout
    again = run(*command)
    assert again.returncode == 0
    assert "0 to build" in again.stdout
    return uri


def test_same_bytes_in_the_bucket_as_in_a_folder(data_uri: str, tiny_set: str) -> None:
    bucket, folder = open_storage(data_uri), open_storage(tiny_set)
    tars = [path for path in folder.list() if path.endswith((".tar", ".idx"))]
    assert len(tars) == 10
    assert all(bucket.read(path) == folder.read(path) for path in tars)


def test_webdataset_and_dali_read_the_loaders_bytes(data_uri: str, stack: Stack, tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    storage = open_storage(data_uri)
    records = read_records(storage, read_manifest(storage), "train")
    fetcher = Fetcher(storage, 4, 60.0, FetchMetrics())
    samples = [(r.path, s) for r in records for s in r.samples]
    try:
        fetched = list(
            fetcher.iterate(
                SampleRange(f"{path}.tar", s.key, s.offset, s.size, tuple(MemberRange(**vars(m)) for m in s.members))
                for path, s in samples
            )
        )
    finally:
        fetcher.close()
    ours = {sample.key: members for (_, sample), members in zip(samples, fetched, strict=True)}

    theirs = {}
    paths, index_paths = [], []
    for record in records:
        for ending in ("tar", "idx"):
            file = tmp_path / f"{record.name}.{ending}"
            file.write_bytes(storage.read(f"{record.path}.{ending}"))
            (paths if ending == "tar" else index_paths).append(str(file))
        theirs.update({s["__key__"]: s for s in webdataset.WebDataset(paths[-1], shardshuffle=False)})
    assert ours.keys() == theirs.keys()
    for key, members in ours.items():
        assert {name: theirs[key][name] for name in members} == members
        assert json.loads(members["json"])["key"] == key

    @pipeline_def(batch_size=len(ours), num_threads=1, device_id=None)
    def reader():
        return tuple(
            fn.readers.webdataset(paths=paths, index_paths=index_paths, ext=["rgb.mp4", "flow.mp4", "diff.mp4", "json"])
        )

    pipe = reader()
    pipe.build()
    columns = pipe.run()
    for i in range(len(ours)):
        row = [bytes(column.at(i)) for column in columns]
        members = ours[json.loads(row[3])["key"]]
        assert row == [members["rgb.mp4"], members["flow.mp4"], members["diff.mp4"], members["json"]]


def test_dali_batches_come_from_s3(data_uri: str) -> None:
    storage = open_storage(data_uri)
    clip = ClipConfig(num_frames=4, crop=32, resize=32)
    with make_loader(
        storage,
        read_manifest(storage),
        "test",
        data=DataConfig(uri=data_uri, batch_size=4),
        clip=clip,
        modalities=("rgb", "flow"),
        train=False,
        seed=0,
    ) as loader:
        keys = [
            key
            for batch in loader.iter_epoch(0)
            for key, weight in zip(batch.keys, batch.weights.tolist(), strict=True)
            if weight
        ]
    assert len(keys) == len(set(keys)) == 8


def train_workers() -> list[int]:
    """Process ids of Ray Train's workers of this test's cluster (their environment names its state folder)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"RECIPROCAL_HOME={os.environ['RECIPROCAL_HOME']}".encode() in (
                process / "environ"
            ).read_bytes().split(b"\0")
            if ours and b"RayTrainWorker" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it ended while we looked
            continue
    return sorted(found)


def wait_for_checkpoint(run_storage: Storage, process: subprocess.Popen[str], timeout_s: float = 150) -> bool:
    """Until there is a whole checkpoint. False where the process ended before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if any(entry.state is State.WHOLE for entry in entries(run_storage)):
            return True
        time.sleep(0.1)
    return False


def keys_used(run_storage: Storage, epochs: int) -> list[Counter[str]]:
    """Per epoch, how often the final checkpoint's history used each key."""
    checkpoint = json.loads(run_storage.read("result.json"))["checkpoint"]
    lines = [
        json.loads(line)
        for path in run_storage.list(f"{checkpoint}/samples-")
        for line in run_storage.read(path).decode().splitlines()
    ]
    return [Counter(key for line in lines if line["epoch"] == epoch for key in line["keys"]) for epoch in range(epochs)]


def train_keys(data_uri: str) -> dict[str, int]:
    storage = open_storage(data_uri)
    return dict.fromkeys((s.key for r in read_records(storage, read_manifest(storage), "train") for s in r.samples), 1)


@pytest.fixture(scope="module")
def trained(stack: Stack, data_uri: str) -> str:
    """A submitted job of two workers on two nodes; one of them is killed in mid-epoch. URI of the run."""
    submit = [
        str(Path(sys.executable).parent / "ray"),
        "job",
        "submit",
        "--address",
        stack.ray_dashboard,
        "--working-dir",
        str(ROOT),
        "--",
    ]
    job = subprocess.Popen(
        [
            *submit,
            "python",
            "-m",
            "jobs.train",
            "crn_demo",
            "--data.uri",
            data_uri,
            *SMALL,
            "--optim.epochs",
            "3",
            "--run.run-id",
            "killed",
            "--run.checkpoint-steps",
            "3",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ray_head.authentication()},
    )
    run_storage = open_storage(f"s3://{stack.bucket}/runs/killed")
    killed = False
    if wait_for_checkpoint(run_storage, job) and (workers := train_workers()):
        os.kill(workers[-1], signal.SIGKILL)
        killed = True
    output, _ = job.communicate(timeout=200)
    assert killed, f"no worker was killed in time\n{output}"
    assert job.returncode == 0, output
    nodes = set(re.findall(r"rank \d of 2 .* node (\w+)", output))
    assert len(nodes) == 2, output
    assert "resuming at epoch" in output, output
    return run_storage.uri


def test_a_killed_worker_costs_no_sample_and_doubles_none(trained: str, data_uri: str) -> None:
    assert keys_used(open_storage(trained), 3) == [train_keys(data_uri)] * 3


@pytest.mark.long
def test_a_killed_command_goes_on_when_it_is_run_again(stack: Stack, data_uri: str) -> None:
    command = [
        "jobs.train",
        "crn_demo",
        "--data.uri",
        data_uri,
        *SMALL,
        "--optim.epochs",
        "2",
        "--run.run-id",
        "again",
        "--run.checkpoint-steps",
        "3",
    ]
    run_storage = open_storage(f"s3://{stack.bucket}/runs/again")
    first = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert wait_for_checkpoint(run_storage, first)
    first.kill()
    first.communicate()
    assert not run_storage.exists("result.json")
    # On one worker in place of two: the batch, and with it the mathematics, stays.
    second = run(*command[:-1], "3", "--run.num-workers", "1", "--run.no-spread")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "resuming at epoch" in second.stdout + second.stderr
    assert keys_used(run_storage, 2) == [train_keys(data_uri)] * 2


def test_the_run_is_on_mlflow(trained: str, stack: Stack, data_uri: str) -> None:
    client = tracking_client()
    experiment = client.get_experiment_by_name("reciprocal")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`reciprocal.run_id` = 'killed'")
    assert found.info.status == "FINISHED"
    assert found.data.params["model.hidden"] == "8"
    assert found.data.tags["manifest_digest"] == read_manifest(open_storage(data_uri)).digest
    assert found.data.tags["mlflow.source.git.commit"]
    assert len(client.get_metric_history(found.info.run_id, "train/loss")) >= 5
    assert "config.json" in [a.path for a in client.list_artifacts(found.info.run_id)]


def test_a_finished_run_is_left_alone(trained: str, data_uri: str) -> None:
    done = run(
        "jobs.train",
        "crn_demo",
        "--data.uri",
        data_uri,
        *SMALL,
        "--optim.epochs",
        "3",
        "--run.run-id",
        "killed",
        "--run.checkpoint-steps",
        "3",
    )
    assert done.returncode == 0
    assert "finished before, nothing to do" in done.stdout
    other = run(
        "jobs.train",
        "crn_demo",
        "--data.uri",
        data_uri,
        *SMALL,
        "--optim.epochs",
        "4",
        "--run.run-id",
        "killed",
        "--run.checkpoint-steps",
        "3",
    )
    assert other.returncode == 2
    assert "optim.epochs = 4" in other.stderr


def test_evaluate_ensemble_promote_predict(
    trained: str, stack: Stack, data_uri: str, tiny_set: str, tmp_path: Path
) -> None:
    done = run("jobs.evaluate", trained, "--split", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    storage = open_storage(trained)
    report = EvalReport.from_json(storage.read("evaluations/test_4x1.json").decode())
    assert report.num_videos == 8
    assert sum(map(sum, report.confusion)) == 8
    assert set(report.scores) == {"rgb", "flow", "fused"}
    assert storage.read("evaluations/test_4x1.png").startswith(b"\x89PNG")
    with np.load(io.BytesIO(storage.read("evaluations/test_4x1.npz")), allow_pickle=False) as kept:
        fused = (kept["probabilities_rgb"].astype(float) + kept["probabilities_flow"]) / 2
        assert (fused.argmax(1) == kept["labels"]).mean() == report.top1
        assert kept["keys"].tolist() == sorted(
            s.key
            for r in read_records(open_storage(data_uri), read_manifest(open_storage(data_uri)), "test")
            for s in r.samples
        )

    mean = run(
        "jobs.ensemble", "killed:rgb", f"{trained}:flow"
    )  # both branches of one run are its own fused prediction
    assert mean.returncode == 0, mean.stdout + mean.stderr
    (place,) = re.findall(r"report +(s3://\S+/ensembles/ensemble-\w+)/evaluations/test_4x1\.json", mean.stdout)
    assert (
        EvalReport.from_json(open_storage(place).read("evaluations/test_4x1.json").decode()).scores["fused"]
        == report.scores["fused"]
    )

    promoted = run("jobs.promote", "killed", "--name", "tiny")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    assert "tiny@champion is now version 1" in promoted.stdout
    assert "has the alias champion already" in run("jobs.promote", trained, "--name", "tiny").stdout

    video = next((Path(tiny_set.removeprefix("file://")).parent / "raw" / "videos").rglob("*.mp4"))
    answer = run("jobs.predict", "models:/tiny@champion", str(video))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert len(re.findall(r"0\.\d{4}", answer.stdout)) == 4
    missing = run("jobs.predict", "models:/tiny@nobody", str(video))
    assert missing.returncode == 2
    assert "cannot load models:/tiny@nobody" in missing.stderr

    # As on another machine: no checkout on the path, no DALI, no Ray, no S3 client.
    alone = f"""
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r}) and "__editable__" not in p]
for name in ("nvidia", "ray", "boto3", "webdataset", "tyro"):
    sys.modules[name] = None
import mlflow, pandas as pd
mlflow.set_tracking_uri({stack.mlflow_uri!r})
model = mlflow.pyfunc.load_model("models:/tiny@champion")
import pipeline
assert not pipeline.__file__.startswith({str(ROOT)!r}), pipeline.__file__
print(model.predict(pd.DataFrame({{"video": [open({str(video)!r}, "rb").read()]}}))["labels"][0][0])
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | tracking_credentials()
    lone = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=env, check=False
    )
    assert lone.returncode == 0, lone.stderr
    assert lone.stdout.strip() in report.classes


def test_refusals_that_need_servers(stack: Stack, data_uri: str, tmp_path: Path) -> None:
    absent = run("jobs.train", "crn_demo", "--data.uri", "s3://no-such-bucket/set")
    assert absent.returncode == 2
    assert absent.stderr.strip().splitlines()[-1].startswith("error: bucket 'no-such-bucket' does not exist")

    keys = {
        "AWS_ENDPOINT_URL": stack.s3_endpoint,
        "AWS_ACCESS_KEY_ID": stack.access_key,
        "AWS_SECRET_ACCESS_KEY": "wrong",
        "AWS_REGION": "us-east-1",
    }
    denied = run("jobs.train", "crn_demo", "--data.uri", data_uri, **keys)
    assert denied.returncode == 2
    assert "check the credentials" in denied.stderr

    record = json.loads((Path(os.environ["RECIPROCAL_HOME"]) / "stack.json").read_text())
    dead = {
        **record,
        "s3_endpoint": "http://127.0.0.1:9",
        "mlflow_uri": "http://127.0.0.1:9",
        "ray_address": "127.0.0.2:9",
    }
    (tmp_path / "stack.json").write_text(json.dumps(dead))
    down = run("jobs.train", "crn_demo", "--data.uri", data_uri, RECIPROCAL_HOME=str(tmp_path))
    assert down.returncode == 2
    assert "the local stack is down: python -m infra.local up" in down.stderr

    (tmp_path / "stack.json").write_text(json.dumps({**record, "ray_address": "127.0.0.2:9"}))
    no_ray = run("jobs.train", "crn_demo", "--data.uri", data_uri, *SMALL, RECIPROCAL_HOME=str(tmp_path))
    assert no_ray.returncode == 2
    assert "Ray at 127.0.0.2:9 does not answer: the local stack is down" in no_ray.stderr

    too_many = run(
        "jobs.train",
        "crn_demo",
        "--data.uri",
        data_uri,
        "--run.num-workers",
        "8",
        "--data.batch-size",
        "16",
        "--run.wait-minutes",
        "0",
    )
    assert too_many.returncode == 2
    assert "more than the cluster's 2" in too_many.stderr


def test_s3_storage_keeps_the_interface(stack: Stack) -> None:
    storage = open_storage(f"s3://{stack.bucket}/interface")
    storage.write("a/x", b"0123456789")
    assert storage.read_range("a/x", 2, 3) == b"234"
    assert storage.read_range("a/x", 8, 100) == b"89"
    assert storage.size("a/x") == 10
    assert list(storage.list("a/")) == ["a/x"]
    storage.delete("a/x")
    assert not storage.exists("a/x")
    storage.probe(write=True)
    with pytest.raises(StorageSetupError, match="does not exist"):
        open_storage("s3://another-bucket/x").probe(write=False)
