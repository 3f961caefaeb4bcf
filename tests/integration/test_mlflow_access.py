"""Who may do what on the stack's MLflow, asked over HTTP as another user of the host would ask. Half a minute."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import mlflow_server
from infra.ports import free_port
from infra.records import Servers
from infra.s3_gateway import BUCKET, Credentials
from infra.server import launch, stop, wait_healthy

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

NO_S3 = "http://127.0.0.1:9"  # these tests end before the bucket would be asked
# What the server tells everybody: that it runs, how a client logs in, and the files of its page.
OPEN = re.compile(r"/health|/static-files/|/server-info$|/api/3\.0/mlflow/server-info$|/favicon")


class Server:
    def __init__(self, address: str, login: mlflow_server.Login) -> None:
        self.address, self.login = address, login

    def ask(self, path: str, body: object = None, *, method: str = "", password: str | None = None) -> tuple[int, str]:
        """Status and body of the answer."""
        password = self.login.password if password is None else password
        word = base64.b64encode(f"{self.login.user}:{password}".encode()).decode()
        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **({"Authorization": f"Basic {word}"} if password else {})},
            method=method or ("GET" if body is None else "POST"),
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow alone, as the stack starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPROCAL_HOME", str(tmp_path_factory.mktemp("home")))
        servers = Servers(token="test-of-mlflow-access")
        plan = mlflow_server.launch({"http": free_port()}, NO_S3, Credentials("k", "s"))
        record = launch(plan, servers)
        try:
            wait_healthy({plan.name: (record, plan.probe)}, 200)
            yield Server(record.address, mlflow_server.load_login())
        finally:
            stop(record, servers)


def database() -> sqlite3.Connection:
    return sqlite3.connect(mlflow_server.login_file().parent / "mlflow.db")


def routes() -> list[tuple[str, str]]:
    """Every method and path that the server knows, with something in the place of each parameter."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import create_fastapi_app

    found = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    for route in create_fastapi_app(app).routes:
        found |= {(method, route.path) for method in getattr(route, "methods", None) or ()}
    return sorted((method, re.sub(r"<[^>]*>|\{[^}]*\}", "x", path)) for method, path in found if method != "OPTIONS")


def test_without_the_password_no_page_answers(server: Server) -> None:
    asked = [(method, path) for method, path in routes() if not OPEN.search(path)]
    assert len(asked) > 200
    answers = {f"{method} {path}": server.ask(path, method=method, password="")[0] for method, path in asked}
    assert {page: status for page, status in answers.items() if status not in (401, 403, 404, 405)} == {}
    assert answers["GET /"] == answers["GET /api/2.0/mlflow/experiments/search"] == 401
    assert answers["PUT /api/2.0/mlflow-artifacts/artifacts/x"] == 401


def test_a_wrong_password_is_refused_and_the_right_one_let_in(server: Server) -> None:
    page = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert server.ask(page, password="wrong")[0] == 401
    assert server.ask(page, password="password1234")[0] == 401  # MLflow's default of old
    assert server.ask(page)[0] == 200
    assert server.ask("/")[0] == 200


@pytest.mark.parametrize("api", ["/api/2.0", "/ajax-api/2.0", "/api/2.0/preview"])
@pytest.mark.parametrize("field", ["artifact_location", "artifactLocation"])
@pytest.mark.parametrize(
    "place",
    ["/etc", "file:///etc", "FILE:///etc", "etc", f"s3://{BUCKET}", "s3://other/x", "mlflow-artifacts://evil/x"],
)
def test_nobody_chooses_where_an_experiments_files_lie(server: Server, api: str, field: str, place: str) -> None:
    name = f"{api} {field} {place}"
    status, text = server.ask(f"{api}/mlflow/experiments/create", {"name": name, field: place})
    assert status in (400, 404), text
    with database() as found:
        assert found.execute("select count(*) from experiments where name = ?", (name,)).fetchone() == (0,)


def test_an_experiment_without_a_place_lies_in_the_servers_own_store(server: Server) -> None:
    status, text = server.ask("/api/2.0/mlflow/experiments/create", {"name": "plain"})
    assert status == 200, text
    found = json.loads(
        server.ask(f"/api/2.0/mlflow/experiments/get?experiment_id={json.loads(text)['experiment_id']}")[1]
    )
    assert found["experiment"]["artifact_location"].startswith("mlflow-artifacts:/")


@pytest.mark.parametrize("source", ["file:///etc", "/etc", f"s3://{BUCKET}/runs", "http://evil.example.com/x"])
def test_nobody_registers_a_version_from_elsewhere(server: Server, source: str) -> None:
    server.ask("/api/2.0/mlflow/registered-models/create", {"name": "m"})
    status, text = server.ask("/api/2.0/mlflow/model-versions/create", {"name": "m", "source": source})
    assert status == 400, text


@pytest.mark.parametrize(
    "place", ["{folder}", "file://{folder}", f"s3://{BUCKET}/runs", f"s3://{BUCKET}/mlflow/../runs"]
)
def test_what_an_older_database_names_is_not_opened(server: Server, tmp_path: Path, place: str) -> None:
    """Neither read, written nor listed, symbolic links included: a database of a server without passwords."""
    (tmp_path / "secret.txt").write_text("not for you")
    (tmp_path / "link").symlink_to("/etc")
    status, text = server.ask("/api/2.0/mlflow/experiments/create", {"name": f"old {place}"})
    assert status == 200, text
    experiment = json.loads(text)["experiment_id"]
    where = place.format(folder=tmp_path)
    with database() as old:
        old.execute("update experiments set artifact_location = ? where experiment_id = ?", (where, experiment))
    status, text = server.ask("/api/2.0/mlflow/runs/create", {"experiment_id": experiment})
    assert status == 200, text
    run = json.loads(text)["run"]["info"]["run_id"]
    with database() as old:
        old.execute("update runs set artifact_uri = ? where run_uuid = ?", (where, run))
    for page, body in (
        (f"/get-artifact?run_uuid={run}&path=secret.txt", None),
        (f"/get-artifact?run_uuid={run}&path=link/hostname", None),
        (f"/api/2.0/mlflow/artifacts/list?run_id={run}", None),
        (f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=new.txt", {"written": True}),
    ):
        status, text = server.ask(page, body)
        assert status == 400, (page, text)
        assert "not served" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "secret.txt"]


def test_the_log_and_the_databases_hold_no_password_and_are_private(server: Server) -> None:
    folder = mlflow_server.login_file().parent
    files = [*folder.glob("*.db*"), folder / "basic_auth.ini", folder.parent / "logs" / "mlflow.log"]
    assert len(files) >= 4
    assert [file.name for file in files if server.login.password.encode() in file.read_bytes()] == []
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []
