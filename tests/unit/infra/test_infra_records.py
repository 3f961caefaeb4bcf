"""Ports, records on disk, the lock, and what a failed start tells the user. No server is started here."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pickle
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra import control, local, mlflow_server, ports, ray_head, records, s3_gateway, server
from infra.process import ProcessId, identify, is_alive
from infra.records import ServerRecord, Servers
from infra.server import Launch, ServerError
from pipeline.config.stack import Stack, find_stack, home, stack_file
from pipeline.errors import ConfigError, UserError


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("RECIPROCAL_STACK", raising=False)
    return tmp_path / "h"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def launch_of(command: list[str], *, name: str = "s3", probe: server.Probe = lambda record: None) -> Launch:
    return Launch(
        name=name, command=command, env={}, cwd=home() / name, address="a", ports={"s3": 1}, settings={}, probe=probe
    )


def test_free_ports_can_be_listened_on_and_differ() -> None:
    chosen = ports.choose_ports(("a", "b", "c"), {})
    assert len(set(chosen.values())) == 3
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in chosen.values():
        with socket.create_server(("127.0.0.1", port)):
            assert not ports.is_free(port)
        assert 1024 <= port < max(first_ephemeral, 32_768)


def test_previous_port_is_kept_unless_taken() -> None:
    old = ports.free_port()
    assert ports.choose_ports(("s3",), {"s3": old}) == {"s3": old}
    assert ports.choose_ports(("s3",), {"s3": old}, taken={old}) != {"s3": old}
    with socket.create_server(("127.0.0.1", old)):
        assert ports.choose_ports(("s3",), {"s3": old}) != {"s3": old}


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_records_are_private_and_survive_a_round_trip() -> None:
    servers = Servers(token="t")
    record = ServerRecord(
        name="s3", address="x", ports={"s3": 5}, pid=1, start_ticks=2, boot_id="b", log="l", settings={"k": "v"}
    )
    servers.records["s3"] = record
    servers.save()
    stack = Stack(
        s3_endpoint="e",
        access_key="k",
        secret_key="hidden",
        bucket="b",
        mlflow_uri="m",
        ray_address="r",
        ray_dashboard="d",
    )
    records.write_stack(stack)
    credentials = s3_gateway.load_credentials()
    for path in (records.servers_file(), stack_file(), home() / "s3" / "credentials.json"):
        assert mode(path) == 0o600, path
    assert records.load_servers() == servers
    assert find_stack() == stack
    assert s3_gateway.load_credentials() == credentials
    assert "hidden" not in repr(stack)
    assert credentials.secret_key not in repr(credentials)
    assert [path.name for path in home().iterdir() if path.name.startswith(".")] == []  # no temporary file is left


def test_damaged_record_is_refused_not_guessed() -> None:
    home().mkdir()
    records.servers_file().write_text('{"token": "t", "servers": [{"name": "s3"}]}')
    with pytest.raises(UserError, match=r"servers\.json is damaged"):
        records.load_servers()


def test_lock_excludes_and_names_its_holder() -> None:
    with records.locked():
        script = "from infra import records\nwith records.locked(0.2): pass"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
        assert result.returncode == 1
        assert f"is held by process {os.getpid()}" in result.stderr
    with records.locked(0.0):
        pass


def test_lock_of_a_dead_holder_is_free() -> None:
    script = "import os\nfrom infra import records\nwith records.locked(): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 9
    with records.locked(0.0), (home() / "lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_failed_start_shows_the_end_of_the_log() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys\nfor i in range(100): print('line', i)\nsys.exit('address already in use')",
    ]
    servers = Servers(token="t")
    plan = launch_of(command, probe=lambda record: "no answer")
    record = server.launch(plan, servers)
    with pytest.raises(ServerError) as caught:
        server.wait_healthy({"s3": (record, plan.probe)}, 20)
    message = str(caught.value)
    assert "s3 did not start: its process has ended" in message
    assert message.endswith("address already in use")
    assert "line 99" in message
    assert "line 50" not in message
    assert str(home() / "logs" / "s3.log") in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_deadline_names_the_server_and_what_it_answered() -> None:
    servers = Servers(token="t")
    plan = launch_of(["sleep", "60"], name="mlflow", probe=lambda record: "HTTP 503")
    record = server.launch(plan, servers)
    with pytest.raises(ServerError, match=r"mlflow did not start: not healthy after 0\.3 s \(HTTP 503\)"):
        server.wait_healthy({"mlflow": (record, plan.probe)}, 0.3)
    assert records.load_servers().records["mlflow"] == record  # noted before it was healthy: `down` would find it
    server.stop(record, servers)
    assert not is_alive(record.process)
    assert records.load_servers().records == {}


def test_missing_program_is_a_server_error() -> None:
    with pytest.raises(ServerError, match="No such file"):
        server.launch(launch_of(["/nonexistent/program"]), Servers(token="t"))


def test_failure_of_one_server_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow dies at its start: S3 and Ray, started by the same ``up``, are ended and no record is published."""
    sleeper = ["sleep", "60"]
    started: list[ProcessId] = []
    original = server.process.start

    def start(*args, **kwargs):
        started.append(original(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(server.process, "start", start)
    monkeypatch.setattr(s3_gateway, "launch", lambda ports, credentials: launch_of(sleeper, name="s3"))
    monkeypatch.setattr(
        mlflow_server,
        "launch",
        lambda ports, endpoint, credentials: launch_of(["false"], name="mlflow", probe=lambda r: "no"),
    )
    monkeypatch.setattr(ray_head, "launch_head", lambda ports, cpus: launch_of(sleeper, name="ray"))
    with pytest.raises(ServerError, match="mlflow did not start"):
        local.up(timeout_s=20)
    assert len(started) == 3
    assert not any(map(is_alive, started))
    assert not stack_file().exists()
    assert records.load_servers().records == {}


def test_status_and_down_without_a_stack() -> None:
    assert [(state.name, state.state) for state in local.status()] == [
        (name, "not started") for name in ("s3", "mlflow", "ray")
    ]
    assert local.down() == 0
    with pytest.raises(ConfigError, match=r"ray_cpus = 0: give at least 1"):
        local.up(ray_cpus=0)
    with pytest.raises(UserError, match="healthy Ray head"):
        local.add_node()


def test_a_node_waits_for_a_head_that_answers_late_and_not_for_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    me = identify(os.getpid())
    assert me is not None
    head = ServerRecord(
        name=ray_head.NAME,
        address="127.0.0.1:1",
        ports={},
        pid=me.pid,
        start_ticks=me.start_ticks,
        boot_id=me.boot_id,
        log="",
        settings={},
    )
    servers = records.Servers(token="t", records={ray_head.NAME: head})
    answers = iter(["no answer", "no answer", None])
    monkeypatch.setattr(ray_head, "head_problem", lambda record: next(answers))
    assert control._healthy_head(servers) == head
    monkeypatch.setattr(ray_head, "head_problem", lambda record: "no answer")
    monkeypatch.setattr(control, "_HEAD_PATIENCE_S", 0.6)
    with pytest.raises(UserError, match=r"healthy Ray head .no answer.: python -m infra"):
        control._healthy_head(servers)
    servers.records[ray_head.NAME] = dataclasses.replace(head, start_ticks=head.start_ticks + 1)
    monkeypatch.setattr(control, "_HEAD_PATIENCE_S", 600.0)
    with pytest.raises(UserError, match=r"healthy Ray head .not running."):
        control._healthy_head(servers)


def test_servers_get_no_foreign_addresses_or_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {
        "AWS_ENDPOINT_URL": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "MLFLOW_TRACKING_URI": "x",
        "RAY_ADDRESS": "x",
        "RECIPROCAL_STACK": "off",
    }
    for key, value in {**foreign, "NO_PROXY": "example.org", "LANG": "C"}.items():
        monkeypatch.setenv(key, value)
    env = server.clean_environment()
    assert not foreign.keys() & env.keys()
    assert env["NO_PROXY"].startswith("example.org,127.0.0.1,")
    assert (env["LANG"], env["RECIPROCAL_HOME"]) == ("C", str(home()))


def test_http_probe_ignores_proxies_and_reads_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ok" else 503)
            self.end_headers()
            self.wfile.write(b"all success here")

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Answer) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"
        assert server.http_problem(f"{address}/ok", expect="success") is None
        assert "unexpected" in (server.http_problem(f"{address}/ok", expect="fine") or "")
        assert "503" in (server.http_problem(f"{address}/bad") or "")
        web.shutdown()
    assert "no answer" in (server.http_problem(f"{address}/ok") or "")


def test_tail_of_a_huge_log_reads_its_end_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 5_000_000 + b"\nlast but one\nlast \xff\n")
    assert server.tail(path, 2) == "last but one\nlast �"
    assert server.tail(tmp_path / "none") == ""


def test_juicefs_comes_from_the_package() -> None:
    program = s3_gateway.find_juicefs()
    assert (
        "juicefs version" in subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30).stdout
    )


def test_stack_record_is_what_json_says() -> None:
    stack = Stack(
        s3_endpoint="e", access_key="k", secret_key="s", bucket="b", mlflow_uri="m", ray_address="r", ray_dashboard="d"
    )
    records.write_stack(stack)
    assert json.loads(stack_file().read_text())["ray_address"] == "r"
