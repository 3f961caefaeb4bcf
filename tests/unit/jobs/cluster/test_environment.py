"""What workers get from the driver: addresses and paths, never a secret."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from mlflow.utils.credentials import get_default_host_creds

from jobs.cluster.environment import worker_environment
from pipeline.config.ray_local import is_loopback
from pipeline.errors import ConfigError
from pipeline.tracking import runs
from tests.support.paths import ROOT

SECRET = "wJalr/K7MDENG+bPxRfiCY%EXAMPLE#KEY;1"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_REGION",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "RECIPROCAL_AUTOSCALING",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "home"))
    return tmp_path


def give_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token")


@pytest.mark.parametrize("profile", ["", "lab"])
def test_on_one_host_credentials_go_by_a_private_file_that_boto3_reads(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_credentials(monkeypatch)
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    variables = worker_environment(one_host=True)
    assert SECRET not in json.dumps(variables)
    assert "session-token" not in json.dumps(variables)
    path = Path(variables["AWS_SHARED_CREDENTIALS_FILE"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A worker, on a node whose own environment has another key.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-node")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-node")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = boto3.Session().get_credentials()
    assert found is not None
    assert (found.access_key, found.secret_key, found.token) == ("AKIA123", SECRET, "session-token")


def test_other_hosts_get_addresses_and_no_paths_and_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    give_credentials(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:9000")
    with caplog.at_level(logging.WARNING):
        variables = worker_environment(one_host=False)
    assert variables["AWS_ENDPOINT_URL"] == "http://10.0.0.1:9000"
    assert str(tmp_path) not in json.dumps(variables)
    assert SECRET not in json.dumps(variables)
    assert not (tmp_path / "home").exists()
    (record,) = caplog.records
    assert "AWS_SECRET_ACCESS_KEY of this command is not sent" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_without_credentials_nothing_is_written_and_nothing_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "AWS_SHARED_CREDENTIALS_FILE" not in worker_environment(one_host=True)
    assert not (tmp_path / "home").exists()
    assert caplog.records == []


def test_an_address_with_a_password_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.com")
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI = 'https://\.\.\.': holds a password") as caught:
        worker_environment(one_host=True)
    assert "hunter2" not in str(caught.value)


def test_the_file_goes_with_its_driver_or_with_the_next_one(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_credentials(monkeypatch)
    code = (
        "import os, sys\nfrom jobs.cluster.environment import worker_environment\n"
        "print(worker_environment(one_host=True)['AWS_SHARED_CREDENTIALS_FILE'], flush=True)\n"
        "sys.stdin.readline()\nif len(sys.argv) > 1: os._exit(9)  # as if killed\n"
    )

    def start(*args: str) -> tuple[subprocess.Popen[str], Path]:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *args], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        return child, Path(child.stdout.readline().strip())

    killed, left = start("killed")
    orderly, own = start()
    assert left.exists()
    assert own.exists()  # of a driver that lives
    killed.communicate("\n")
    assert left.exists()
    third, _ = start()
    assert not left.exists()
    assert own.exists()
    for child in (orderly, third):
        child.communicate("\n")
    assert list(own.parent.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET},
        {"MLFLOW_TRACKING_TOKEN": SECRET},
    ],
)
def test_on_one_host_another_mlflows_login_goes_by_a_private_file(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    variables = worker_environment(one_host=True)
    assert SECRET not in json.dumps(variables)
    path = Path(variables["RECIPROCAL_TRACKING_CREDENTIALS_FILE"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for name in given:  # a worker
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runs.address()
    try:
        host = get_default_host_creds("https://mlflow.example.com")
        assert (host.username, host.password, host.token) == (
            given.get("MLFLOW_TRACKING_USERNAME"),
            given.get("MLFLOW_TRACKING_PASSWORD"),
            given.get("MLFLOW_TRACKING_TOKEN"),
        )
    finally:
        monkeypatch.delenv("RECIPROCAL_TRACKING_CREDENTIALS_FILE")
        runs.address()


def test_nodes_elsewhere_have_a_login_of_their_own_and_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    with caplog.at_level(logging.WARNING):
        assert SECRET not in json.dumps(worker_environment(one_host=False))
    assert "MLFLOW_TRACKING_PASSWORD of this command is not sent" in caplog.text


def test_workers_are_told_their_cluster() -> None:
    assert worker_environment(one_host=True, address="127.0.0.1:6379")["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert "RAY_ADDRESS" not in worker_environment(one_host=True)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.1:6379", False),
        ("ray://127.0.0.1:10001", False),
        ("auto", False),
    ],
)
def test_which_addresses_promise_that_all_nodes_are_on_this_host(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("module", ["jobs.preprocess.command", "jobs.cluster.errors"])
@pytest.mark.slow
def test_what_ray_reads_when_it_is_imported_is_set_before(module: str) -> None:
    code = (
        "import importlib, os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray':\n"
        "            self.seen = dict(os.environ)\n"
        "            sys.meta_path.remove(self)\n"
        "watch = Watch()\n"
        "sys.meta_path.insert(0, watch)\n"
        f"importlib.import_module({module!r})\n"
        "import jobs\n"
        "from ray._private import ray_constants\n"
        "late = [name for name, value in jobs._ENVIRONMENT.items() if watch.seen.get(name) != value]\n"
        "print(late, ray_constants.RAY_DEDUP_LOGS)"
    )
    clean_environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
