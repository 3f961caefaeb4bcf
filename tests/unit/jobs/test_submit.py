"""What ``jobs.submit`` sends, and what it refuses before it asks a cluster."""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs.submit import command
from jobs.submit.cluster import dashboard, job_client
from jobs.submit.command import JOBS, SubmitArgs, entrypoint, main
from jobs.submit.package import find_package
from pipeline.errors import ConfigError, ReciprocalError, UserError
from tests.support.paths import ROOT

EXCLUDED = (
    ".git/config",
    "pkg/__pycache__/m.pyc",
    ".venv/pyvenv.cfg",
    ".venv/lib/site.py",
    "other-env/pyvenv.cfg",
    "x.egg-info/PKG-INFO",
)


def write(root: Path, *names: str, size: int = 10) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)


def test_code_goes_and_repositories_environments_data_and_secrets_stay(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "pkg/m.py", "notes.md", *EXCLUDED)
    write(tmp_path, "clips/a.MP4", "weights.safetensors", "shards/s.tar", size=1000)
    write(tmp_path, "s3.env", ".env", "deploy/id_rsa", "tls/server.key", ".aws/credentials")
    package = find_package(tmp_path)
    assert set(package.files) == {"main.py", "pkg/m.py", "notes.md"}
    assert set(package.data) == {"clips/a.MP4", "weights.safetensors", "shards/s.tar"}
    assert set(package.secrets) == {"s3.env", ".env", "deploy/id_rsa", "tls/server.key", ".aws/credentials"}
    assert "3 files, 30 bytes; left out: 3 files of data (3.0 kB" in str(package)
    target = tmp_path / "sent"
    package.copy_to(target)
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == set(package.files)


def test_in_a_repository_git_says_what_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "new.py", "scratch/big.txt", "gone.py")
    (tmp_path / ".gitignore").write_text("scratch/\n")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "main.py", "gone.py"], check=True)
    (tmp_path / "gone.py").unlink()
    assert set(find_package(tmp_path).files) == {"main.py", "new.py", ".gitignore"}


def test_of_this_project_all_code_goes_and_nothing_looks_like_a_secret() -> None:
    package = find_package(ROOT)
    assert package.secrets == ()
    for name in ("jobs/train/command.py", "jobs/evaluate/page.html.j2", "pipeline/common/page.css"):
        assert name in package.files


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", size=900)
    write(tmp_path, "b/c.txt", size=2000)
    write(tmp_path, "d.txt", size=10)
    with pytest.raises(ConfigError, match=r"holds 2\.9 kB, more than 1\.0 kB: .*largest: b/c\.txt \(2\.0 kB\), a\.txt"):
        find_package(tmp_path, most_bytes=1000)
    with pytest.raises(ConfigError, match="holds no file that could be submitted"):
        find_package(tmp_path / "b" / ".." / "empty" if (tmp_path / "empty").mkdir() else tmp_path / "empty")
    with pytest.raises(ConfigError, match="is not a folder"):
        find_package(tmp_path / "nowhere")


def test_the_cluster_runs_the_job_with_its_arguments_as_they_were_given() -> None:
    words = ["train", "crn_demo", "--data.uri", "s3://b/x y", "--model.note", "a'b$(c)"]
    assert shlex.split(entrypoint(words)) == ["python", "-m", "jobs.train", *words[1:]]
    assert shlex.split(entrypoint(["jobs.verify"])) == ["python", "-m", "jobs.verify"]


def test_a_file_of_credentials_is_read_by_the_shell_and_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "my s3.env"
    secret.write_text("export TOKEN=hush\n")
    text = entrypoint(["train", "x y"], str(secret))
    assert "hush" not in text
    shown = text.replace("exec python -m jobs.train", 'exec printf %s,%s "$TOKEN"')
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == "hush,x y"


def test_every_job_exists() -> None:
    for name in JOBS:
        assert (ROOT / "jobs" / f"{name}.py").exists() or (ROOT / "jobs" / name / "__main__.py").exists()


def test_secrets_in_arguments_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    for words in (["train", "--note", "xs3cr3ty"], ["predict", "models:/m/1", "http://me:pass@host/x.mp4"]):
        with pytest.raises(ConfigError) as caught:
            entrypoint(words)
        assert "which the dashboard shows" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--"], "nothing stands behind --"),
        (["--", "rm", "-rf"], "'rm' is none of train, preprocess"),
        (["train", "crn_demo"], "give the job behind --"),
        (["--credentials", "s3.env", "--", "train"], "credentials = 's3.env': give the file's path on the head node"),
        (["--job-id", "a b", "--", "train"], "job_id = 'a b': use letters"),
        (["--address", "head:8265", "--", "train"], "address = 'head:8265': give the dashboard's"),
        (["--address", "http://u:p@head:8265", "--", "train"], "holds a password"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_STACK", "off")
    with pytest.raises(UserError) as caught:
        main(words)
    assert text in str(caught.value)


def test_without_any_address_the_command_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPROCAL_STACK", "off")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no local stack is up; give --address"):
        dashboard("")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # not a dashboard's
    with pytest.raises(UserError, match="give --address"):
        dashboard("")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265/")
    assert dashboard("") == "http://head:8265"


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no cluster answers at {address}"):
            job_client(address)


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that gives every request the same answer."""
    status, text = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answering", "kind", "text"),
    [
        ((401, "Unauthorized: Missing authentication token"), UserError, "the token is missing or wrong"),
        ((403, "Forbidden: Invalid authentication token"), UserError, "the token is missing or wrong"),
        ((500, "boom"), ReciprocalError, "500"),
        ((200, "<html>another server</html>"), ReciprocalError, "the cluster at http"),
    ],
    indirect=["answering"],
)
def test_what_a_server_answers_is_one_line(answering: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        job_client(answering)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH = '.*none': cannot be read"):
            job_client(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_nothing_is_sent_where_the_folder_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt", size=2000)
    monkeypatch.setattr(command, "MOST_BYTES", 1000)
    monkeypatch.setattr(command, "job_client", lambda _: pytest.fail("a cluster was asked"))
    with pytest.raises(ConfigError, match="working_dir"):
        command.submit(SubmitArgs(address="http://head:8265", working_dir=tmp_path), ["train", "crn_demo"])
