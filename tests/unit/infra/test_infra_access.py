"""Passwords, keys and tokens of the local stack: who can read them, and who is told where they are. No server."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import local, mlflow_server, ray_head, s3_gateway
from infra.records import ServerRecord, Servers
from pipeline.config.stack import Stack, home, stack_file
from pipeline.errors import UserError


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("RECIPROCAL_STACK", raising=False)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"access_key": "a"}', '{"access_key": "a", "secret_key": 5}'])
def test_damaged_credentials_are_refused_by_name(text: str) -> None:
    for part, load in (("s3", s3_gateway.load_credentials), ("mlflow", mlflow_server.load_login)):
        file = home() / part / "credentials.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        with pytest.raises(UserError, match=rf"{part}/credentials\.json is damaged.*delete it"):
            load()


def test_a_head_of_an_older_version_is_started_anew() -> None:
    """It listens on all interfaces, and drivers of this version look for it at another address."""
    old = ServerRecord(
        name="ray", address="127.0.0.2:6379", ports={}, pid=1, start_ticks=2, boot_id="b", log="l", settings={}
    )
    assert "all interfaces" in (ray_head.head_problem(old) or "")


@pytest.mark.usefixtures("open_umask")
def test_mlflow_is_started_with_a_password_that_only_its_user_can_read() -> None:
    made = s3_gateway.Credentials("k", "s")
    plan = mlflow_server.launch({"http": 5000}, "http://127.0.0.1:9", made)
    login = mlflow_server.load_login()
    assert login.password not in repr(login)
    assert login.password not in " ".join(plan.command)  # anybody may list processes
    assert plan.command[plan.command.index("--app-name") + 1] == "basic-auth"
    assert {path.name: mode(path) for path in plan.cwd.iterdir()} == dict.fromkeys(
        ("mlflow.db", "users.db", "basic_auth.ini", "credentials.json", "webhooks.json"), 0o600
    )
    assert mlflow_server.load_login() == login
    mlflow_server.login_file().unlink()
    (plan.cwd / "users.db").write_text("knows the old password")
    mlflow_server.launch({"http": 5000}, "http://127.0.0.1:9", made)
    assert mlflow_server.load_login() != login
    assert (plan.cwd / "users.db").read_text() == ""


def test_status_shows_whole_paths_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(home() / "logs" / "mlflow.log")
    record = ServerRecord(
        name="mlflow",
        address="http://127.0.0.1:12",
        ports={},
        pid=1,
        start_ticks=2,
        boot_id="b",
        log=log,
        settings={},
    )
    Servers(token="t", records={"mlflow": record}).save()
    monkeypatch.setattr(local.console, "width", 40)
    assert local.main(["status"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mlflow")]
    assert line.split() == ["mlflow", "http://127.0.0.1:12", "1", "not", "running", log]


def test_every_address_comes_with_the_file_that_lets_its_reader_in() -> None:
    stack = Stack(
        s3_endpoint="http://s3", access_key="k", secret_key="hidden", bucket="b", mlflow_uri="http://mlflow",
        mlflow_user="someone", mlflow_password="hidden", ray_address="r", ray_dashboard="http://ray",
    )  # fmt: skip
    text = "\n".join(local.addresses(stack))
    for address, file in (
        ("http://mlflow", home() / "mlflow" / "credentials.json"),
        ("http://ray", home() / "ray-token"),
        ("http://s3", stack_file()),
    ):
        (line,) = [line for line in text.splitlines() if address in line]
        assert str(file) in line
    assert "someone" in text
    assert "hidden" not in text
