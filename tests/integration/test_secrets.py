"""The secret key of S3, given to commands in their environment, and MLflow's password are seen nowhere else: what Ray
shows and logs, what MLflow keeps and what `ps` lists is collected while the commands run and afterwards, and searched.
Some minutes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import local, ray_head
from pipeline.config.stack import Stack, find_stack, home, ray_token_file
from pipeline.storage import open_storage
from tests.support.paths import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = [
    *("--model.width", "0.125", "--model.hidden", "8", "--model.adapted", "8", "--model.num-steps", "4"),
    *("--clip.num-frames", "4", "--clip.crop", "32", "--clip.resize", "32", "--data.batch-size", "2"),
    *("--optim.epochs", "1", "--run.num-workers", "2"),
]
STATES = ("actors", "jobs", "tasks", "workers", "runtime_envs", "nodes", "objects", "cluster_events")
PAGES = (*(f"/api/v0/{state}?detail=1&limit=10000" for state in STATES), "/api/jobs/")


class Watcher:
    """Collects everything that others can see of this user's cluster."""

    def __init__(self, stack: Stack) -> None:
        self.seen: dict[str, set[bytes]] = {}
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.look()

    def look(self) -> None:
        for page in PAGES:
            self.seen.setdefault(page, set()).add(self._page(page))
        lines = self.seen.setdefault("process arguments", set())
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.add(process.read_bytes())
            except OSError:  # it ended
                continue

    def _page(self, page: str) -> bytes:
        request = urllib.request.Request(
            self._stack.ray_dashboard + page,
            headers={"Authorization": f"Bearer {ray_token_file().read_text().strip()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:  # a busy server; its words are searched as well
            return error.read()
        except OSError as error:
            return str(error).encode()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RECIPROCAL_STACK", raising=False)
        try:
            # One node: of two on one host, Ray's second agent unpacks a job's working folder anew under its driver.
            local.up(ray_cpus=2)
            found = find_stack()
            assert found is not None
            yield found
        finally:
            local.down()
            shutil.rmtree(ray_head.temporary_folder().parent, ignore_errors=True)


@pytest.fixture(scope="module")
def credentials(stack: Stack) -> dict[str, str]:
    """With these the record of the local stack is not used for S3."""
    return {
        "AWS_ENDPOINT_URL": stack.s3_endpoint,
        "AWS_ACCESS_KEY_ID": stack.access_key,
        "AWS_SECRET_ACCESS_KEY": stack.secret_key,
        "AWS_REGION": "us-east-1",
    }


def run(arguments: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def searched(
    stack: Stack, credentials: dict[str, str], tiny_set: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[bytes]]:
    """What was to be seen of preprocessing and training, each run directly and as a submitted job."""
    raw = Path(tiny_set.removeprefix("file://")).parent / "raw"
    file = tmp_path_factory.mktemp("private") / "s3.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in credentials.items()))
    ray = str(Path(sys.executable).parent / "ray")
    with Watcher(stack) as watcher:
        outputs = []
        for way in ("direct", "submitted"):
            uri = f"s3://{stack.bucket}/{way}"
            preprocess = (
                f"-m jobs.preprocess --format ucf101 --source {raw}/videos --annotations {raw} --out {uri}"
                " --stored.short-side 32 --samples-per-shard 8"
            ).split()
            train = ["-m", "jobs.train", "crn_demo", "--data.uri", uri, *SMALL, "--run.run-id", f"{way}-run"]
            for arguments in (preprocess, train):
                if way == "direct":
                    outputs.append(run([sys.executable, *arguments], credentials))
                else:
                    entrypoint = f". {file} && exec python {shlex.join(arguments)}"
                    submit = [ray, "job", "submit", "--address", stack.ray_dashboard, "--working-dir", str(ROOT)]
                    outputs.append(run([*submit, "--", "sh", "-c", entrypoint], ray_head.authentication()))
            assert open_storage(f"s3://{stack.bucket}/runs/{way}-run").exists("result.json")
    return {**watcher.seen, "output": {text.encode() for text in outputs}}


def secret_in(stack: Stack) -> Callable[[bytes], bool]:
    secrets = (stack.secret_key, stack.mlflow_password)
    assert all(len(secret) > 20 for secret in secrets)
    return lambda text: any(secret.encode() in text for secret in secrets)


def test_what_ray_shows_and_commands_print_holds_no_secret(searched: dict[str, set[bytes]], stack: Stack) -> None:
    found = [place for place, texts in searched.items() if any(map(secret_in(stack), texts))]
    assert found == []


def test_the_search_reaches_what_it_should(searched: dict[str, set[bytes]], stack: Stack) -> None:
    """Or it would find no secret in whatever it looked at."""

    def anywhere(place: str, text: str) -> bool:
        return any(text.encode() in seen for seen in searched[place])

    assert anywhere("/api/jobs/", "jobs.train crn_demo")
    assert anywhere("/api/jobs/", "AWS_SHARED_CREDENTIALS_FILE")
    assert anywhere("/api/v0/runtime_envs?detail=1&limit=10000", "AWS_ENDPOINT_URL")
    assert anywhere("/api/v0/actors?detail=1&limit=10000", "TrainController")
    assert anywhere("/api/v0/tasks?detail=1&limit=10000", "_build")
    assert anywhere("process arguments", "RayTrainWorker")


def test_logs_hold_no_secret(searched: dict[str, set[bytes]], stack: Stack) -> None:
    folders = [ray_head.temporary_folder(), home() / "logs"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("raylet" in path.name for path in files)
    assert any(path.name.startswith("job-driver") for path in files)
    assert [str(path) for path in files if secret_in(stack)(path.read_bytes())] == []


def test_mlflow_holds_no_secret(searched: dict[str, set[bytes]], stack: Stack) -> None:
    database = b"".join(path.read_bytes() for path in (home() / "mlflow").glob("mlflow.db*"))
    assert b"direct-run" in database
    assert not secret_in(stack)(database)
    bucket = open_storage(f"s3://{stack.bucket}")
    artifacts = list(bucket.list("mlflow/"))
    assert any(name.endswith("config.json") for name in artifacts)
    assert [name for name in artifacts if secret_in(stack)(bucket.read(name))] == []


def test_run_folders_hold_no_secret(searched: dict[str, set[bytes]], stack: Stack) -> None:
    bucket = open_storage(f"s3://{stack.bucket}")
    names = [name for prefix in ("runs/", "direct/", "submitted/") for name in bucket.list(prefix)]
    assert any(name.endswith("run.json") for name in names)
    assert [name for name in names if secret_in(stack)(bucket.read(name))] == []


def test_credentials_files_went_with_their_commands(searched: dict[str, set[bytes]]) -> None:
    assert stat.S_IMODE((home() / "credentials").stat().st_mode) == 0o700
    assert list((home() / "credentials").iterdir()) == []
    record = json.loads((home() / "stack.json").read_text())
    assert record["secret_key"]
