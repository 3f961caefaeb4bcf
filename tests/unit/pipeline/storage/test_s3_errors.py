"""S3 error answers, from a server of the test's own that says what S3 says. The real server is in tests/integration."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import NotFoundError, StorageSetupError
from pipeline.storage import S3Storage


class _Answers(http.server.BaseHTTPRequestHandler):
    status, code = 404, "NoSuchKey"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>m</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Answers]]:
    handler = type("Answers", (_Answers,), {})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize(
    ("status", "code", "error", "text"),
    [
        (404, "NoSuchKey", NotFoundError, "s3://bucket/p/x does not exist"),
        (404, "NoSuchBucket", StorageSetupError, "bucket 'bucket' does not exist"),
        (403, "SignatureDoesNotMatch", StorageSetupError, "check the credentials"),
        (403, "InvalidAccessKeyId", StorageSetupError, "InvalidAccessKeyId"),
        (403, "AccessDenied", StorageSetupError, "access to s3://bucket/p/x is denied .*check the credentials"),
        (400, "ExpiredToken", StorageSetupError, "s3://bucket/p/x was asked for have expired .*renew them"),
        (400, "InvalidToken", StorageSetupError, "have expired"),
        (403, "RequestTimeTooSkewed", StorageSetupError, "this machine's clock"),
        (400, "AuthorizationHeaderMalformed", StorageSetupError, "check the credentials"),
        (400, "InvalidRequest", StorageSetupError, "s3://bucket/p/x: the server refuses the request"),
    ],
)
def test_answers_become_errors_that_say_what_to_fix(
    server: type[_Answers], status: int, code: str, error: type[Exception], text: str
) -> None:
    server.status, server.code = status, code
    with pytest.raises(error, match=text):
        S3Storage("bucket", "p").read("x")


def test_without_a_server_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with pytest.raises(StorageSetupError, match="no S3 server answers"):
        S3Storage("bucket", "p").probe(write=False)


WRITES: dict[str, Callable[[S3Storage, Path], object]] = {
    "write": lambda storage, file: storage.write("x", b"data"),
    "write_file": lambda storage, file: storage.write_file("x", file),
    "delete": lambda storage, file: storage.delete("x"),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (405, "MethodNotAllowed")])
def test_a_bucket_that_may_only_be_read_is_named_with_what_to_do(
    server: type[_Answers], tmp_path: Path, write: str, status: int, code: str
) -> None:
    server.status, server.code = status, code
    (tmp_path / "large").write_bytes(bytes(17 << 20))  # sent in parts
    with pytest.raises(StorageSetupError, match=rf"^writing s3://bucket/p/x is denied \({code}\): let .* or name"):
        WRITES[write](S3Storage("bucket", "p"), tmp_path / "large")


def test_an_answer_without_words_says_what_it_may_be(server: type[_Answers]) -> None:
    server.status = 400
    with pytest.raises(StorageSetupError, match=r"refuses the request .*expired credentials: check the credentials"):
        S3Storage("bucket", "p").size("x")


def test_a_profile_that_does_not_exist_is_named(server: type[_Answers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageSetupError, match=r"profile \(nobody\) could not be found"):
        S3Storage("bucket", "p").read("x")
