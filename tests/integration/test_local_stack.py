"""The local stack with its real servers: one start for the file, tests in order, ended at last. About a minute."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError

from infra import local, process, ray_head
from infra.process import ProcessId
from infra.records import ServerRecord, load_servers
from infra.server import token_of
from pipeline.config.stack import Stack, find_stack, ray_token_file, stack_file
from tests.support.listening import listening_beyond_this_host
from tests.support.paths import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def command(*arguments: str, timeout_s: float = 150, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **env},
    )


def s3_client(stack: Stack, secret: str | None = None):
    return boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=stack.access_key,
        aws_secret_access_key=secret or stack.secret_key,
        config=Config(retries={"total_max_attempts": 1}, request_checksum_calculation="when_required"),
    )


@pytest.fixture(scope="module")
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this user, named as one of Ray's: what ends by name would end it."""
    child = subprocess.Popen(["bash", "-c", "exec -a raylet sleep 600"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, bystander: subprocess.Popen[bytes]) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        # Longer than a socket path may be.
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("a-folder-with-quite-a-long-name-" + "x" * 40)))
        patch.delenv("RECIPROCAL_STACK", raising=False)
        try:
            result = command("infra.local", "up", "--ray-cpus", "2")
            assert result.returncode == 0, result.stdout + result.stderr
            found = find_stack()
            assert found is not None
            yield found
        finally:
            local.down()
            shutil.rmtree(ray_head.temporary_folder().parent)  # below /tmp, because of the long name


def test_up_publishes_a_private_record_and_all_is_healthy(stack: Stack) -> None:
    assert stat.S_IMODE(stack_file().stat().st_mode) == 0o600
    assert [state.state for state in local.status()] == ["healthy"] * 3
    assert command("infra.local", "status").returncode == 0
    assert stack.s3_endpoint.startswith("http://127.0.0.1:")
    assert stack.mlflow_uri.startswith("http://127.0.0.1:")
    assert stack.ray_dashboard.startswith("http://127.0.0.1:")
    assert stack.ray_address.startswith("127.")


def test_s3_keeps_objects_serves_ranges_and_checks_signatures(stack: Stack) -> None:
    data = os.urandom(300_000)
    s3 = s3_client(stack)
    s3.put_object(Bucket=stack.bucket, Key="a/b.bin", Body=data, Metadata={"made-by": "test"})
    answer = s3.get_object(Bucket=stack.bucket, Key="a/b.bin")
    assert answer["Body"].read() == data
    assert answer["Metadata"] == {"made-by": "test"}
    part = s3.get_object(Bucket=stack.bucket, Key="a/b.bin", Range="bytes=1000-1999")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert part["Body"].read() == data[1000:2000]
    for verb in (
        lambda client: client.get_object(Bucket=stack.bucket, Key="a/b.bin"),
        lambda client: client.put_object(Bucket=stack.bucket, Key="a/b.bin", Body=b"forged"),
    ):
        with pytest.raises(ClientError) as caught:
            verb(s3_client(stack, secret="wrong-" + stack.secret_key))
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert s3.get_object(Bucket=stack.bucket, Key="a/b.bin")["Body"].read() == data


def test_mlflow_keeps_runs_and_puts_artifacts_in_the_bucket(stack: Stack, tmp_path: Path) -> None:
    """A client that has only the server's address and password: no S3 credentials in its environment."""
    (tmp_path / "report.txt").write_text("proof")
    script = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "mlflow.set_experiment('e')\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_metric('m', 0.25, step=3)\n"
        "    mlflow.log_artifact(sys.argv[2])\n"
        "print('RUN', run.info.run_id, mlflow.get_run(run.info.run_id).data.metrics['m'])\n"
        "print('TEXT', mlflow.artifacts.load_text(run.info.artifact_uri + '/report.txt'))\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "RECIPROCAL_"))}
    login = {"MLFLOW_TRACKING_USERNAME": stack.mlflow_user, "MLFLOW_TRACKING_PASSWORD": stack.mlflow_password}
    call = [sys.executable, "-c", script, stack.mlflow_uri, str(tmp_path / "report.txt")]
    result = subprocess.run(call, cwd=tmp_path, env=env | login, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    words = dict(line.split(" ", 1) for line in result.stdout.splitlines() if line.startswith(("RUN ", "TEXT ")))
    run_id, metric = words["RUN"].split()
    assert (float(metric), words["TEXT"]) == (0.25, "proof")
    s3 = s3_client(stack)
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=stack.bucket, Prefix="mlflow/")["Contents"]]
    (key,) = [key for key in keys if run_id in key]
    assert key.endswith("/artifacts/report.txt")
    assert s3.get_object(Bucket=stack.bucket, Key=key)["Body"].read() == b"proof"


def second_node() -> ServerRecord:
    """The node at the head's side, added by the first test that needs it: the tests may run in any order."""
    return load_servers().records.get("ray-node-1") or local.add_node(cpus=3)


def test_ray_takes_jobs_from_those_who_have_the_token_and_a_second_node(stack: Stack, tmp_path: Path) -> None:
    node = second_node()
    assert {state.name: state.state for state in local.status()}[node.name] == "healthy"
    # The job sees both nodes, and finds the stack's record through its environment.
    script = (
        "import json, os, ray\n"
        "ray.init(log_to_driver=False)\n"
        "print('CPUS', ray.cluster_resources()['CPU'], len([n for n in ray.nodes() if n['Alive']]))\n"
        "print('HOME', os.environ['RECIPROCAL_HOME'], os.environ['RAY_TRAIN_V2_ENABLED'])\n"
    )
    exports = dict(re.findall(r"export (\w+)=(\S+)", command("infra.local", "env").stdout))
    assert exports["RAY_API_SERVER_ADDRESS"] == stack.ray_dashboard
    assert stat.S_IMODE(Path(exports["RAY_AUTH_TOKEN_PATH"]).stat().st_mode) == 0o600
    submit = ("ray.scripts.scripts", "job", "submit", "--", "python", "-c", script)
    stranger = tmp_path / "token"
    stranger.write_text("0" * 64)
    refused = command(*submit, **{**exports, "RAY_AUTH_TOKEN_PATH": str(stranger)})
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
    result = command(*submit, **exports)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "CPUS 5.0 2" in result.stdout
    assert f"HOME {os.environ['RECIPROCAL_HOME']} 1" in result.stdout


def test_jobs_are_submitted_followed_and_stopped_with_an_address_and_a_token_alone(
    stack: Stack, tmp_path: Path
) -> None:
    bare = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RECIPROCAL_STACK": "off",
        "RAY_AUTH_TOKEN_PATH": str(ray_token_file()),
    }
    at = ("--address", stack.ray_dashboard)

    def submit(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "jobs.submit", *words]
        env = {**bare, **changes}
        return subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    done = submit(*at, "--job-id", "good", "--", "train", "--list", "crn_demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("job      good: succeeded") == 1
    printed = submit("logs", "good", *at, "--no-follow").stdout
    assert "crn_demo" in printed
    assert printed in done.stdout
    failed = submit(*at, "--job-id", "bad", "--", "evaluate", "no-such-run")
    assert failed.returncode == 2
    assert "bad: failed (2)" in failed.stdout
    detached = submit(*at, "--detach", "--job-id", "long", "--", "bench", "models")
    assert detached.returncode == 0
    assert "python -m jobs.submit logs long --address" in detached.stdout
    stopped = submit("stop", "long", *at)
    assert stopped.returncode == 0
    assert "long: stopped" in stopped.stdout
    assert submit("logs", "long", *at).returncode == 143
    listed = submit("list", *at).stdout
    assert [word for word in ("good", "bad", "long") if word in listed] == ["good", "bad", "long"]
    assert "python -m jobs.evaluate no-such-run" in submit("status", "bad", *at).stdout
    for words, changes, text in (
        (("status", "other", *at), {}, "has no job 'other'"),
        (("logs", "other", *at), {}, "has no job 'other'"),
        (("stop", "other", *at), {}, "has no job 'other'"),
        (("list", *at), {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "the token is missing or wrong"),
    ):
        refused = submit(*words, **changes)
        assert refused.returncode == 2
        assert text in refused.stderr
        assert "Traceback" not in refused.stderr


def test_nothing_of_the_stack_listens_beyond_this_host(stack: Stack) -> None:
    second_node()
    servers = load_servers()
    members = process.family([record.process for record in servers.records.values()], token_of(servers))
    assert len(members) > 20
    assert listening_beyond_this_host(psutil.Process(member.pid) for member in members) == []


def test_second_up_changes_nothing(stack: Stack) -> None:
    before = load_servers()
    assert local.up() == stack
    assert load_servers() == before
    result = command("infra.local", "up")
    assert result.returncode == 0
    assert "healthy already" in result.stdout
    assert load_servers() == before


def test_a_killed_server_is_reported_and_repaired_in_place(stack: Stack) -> None:
    second_node()
    before = load_servers().records
    os.kill(before["s3"].pid, signal.SIGKILL)
    assert process.wait_until(lambda: not process.is_alive(before["s3"].process), 10)
    assert {state.name: state.healthy for state in local.status()} == {
        "s3": False,
        "mlflow": True,
        "ray": True,
        "ray-node-1": True,
    }
    assert command("infra.local", "status").returncode == 1
    assert local.up() == stack  # same addresses, same credentials
    after = load_servers().records
    assert after["s3"].pid != before["s3"].pid
    assert {name: record for name, record in after.items() if name != "s3"} == {
        name: record for name, record in before.items() if name != "s3"
    }
    assert s3_client(stack).get_object(Bucket=stack.bucket, Key="a/b.bin")["ContentLength"] == 300_000  # data stayed


def test_a_killed_ray_head_is_repaired_with_its_orphans_and_nodes_gone(stack: Stack) -> None:
    second_node()
    before = load_servers()
    records = [before.records[name] for name in ("ray", "ray-node-1")]
    members = [
        member for record in records for member in process.family([record.process], token_of(before, record.name))
    ]
    os.kill(records[0].pid, signal.SIGKILL)
    assert local.up() == stack
    assert [member for member in members if process.is_alive(member)] == []
    assert [(state.name, state.state) for state in local.status()] == [
        (name, "healthy") for name in ("s3", "mlflow", "ray")
    ]


def test_down_ends_everything_of_its_own_and_nothing_else(stack: Stack, bystander: subprocess.Popen[bytes]) -> None:
    servers = load_servers()
    members: list[ProcessId] = process.family(
        [record.process for record in servers.records.values()], token_of(servers)
    )
    assert len(members) > 10  # Ray alone has a dozen
    result = command("infra.local", "down")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [member for member in members if process.is_alive(member)] == []
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, timeout=10).stdout
    assert [line for line in listed.splitlines() if os.environ["RECIPROCAL_HOME"] in line] == []
    assert bystander.poll() is None
    assert not stack_file().exists()
    assert [state.state for state in local.status()] == ["not started"] * 3
