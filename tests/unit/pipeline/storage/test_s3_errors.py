"""S3 error answers, from a server of the test's own that says what S3 says. The real server is in tests/integration."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from pipeline.errors import NotFoundError, StorageSetupError
from pipeline.storage import S3Storage


class _Answers(http.server.BaseHTTPRequestHandler):
    status, code = 404, "NoSuchKey"

    def do_GET(self) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>m</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
