"""MLflow's webhooks on a real server: a receiver hears of a promotion, and can tell that it was MLflow that called."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.aliases import move_alias
from pipeline.tracking.registry import aliased_version, versions
from pipeline.tracking.runs import client
from tests.support.tracking_server import TrackingServer

pytestmark = pytest.mark.stack

SECRET = "between MLflow and the receiver"
Request = tuple[dict[str, str], bytes]


def is_signed(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As docs/evaluate-and-register.md says: HMAC-SHA256 of the delivery's id, its time and the body."""
    signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    recent = abs(time.time() - int(headers["x-mlflow-timestamp"])) < 300
    return recent and hmac.compare_digest(headers["x-mlflow-signature"], f"v1,{expected}")


@pytest.fixture
def receiver() -> Iterator[tuple[http.server.HTTPServer, queue.Queue[Request]]]:
    received: queue.Queue[Request] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, received
    server.shutdown()
    server.server_close()


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", base64.urlsafe_b64encode(bytes(32)).decode())
    monkeypatch.setenv("MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES", "0")
    server = TrackingServer(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    yield server
    server.kill()


def test_a_receiver_hears_of_a_promotion_and_none_that_is_down_hinders_one(
    tracking: TrackingServer, receiver: tuple[http.server.HTTPServer, queue.Queue[Request]]
) -> None:
    server, received = receiver
    client().create_registered_model("m")
    for _ in range(3):
        client().create_model_version("m", "s3://bucket/model")
    first, second, third = versions("m")
    url = f"http://127.0.0.1:{server.server_port}/promoted"
    client().create_webhook("promotions", url, ["model_version_alias.created"], secret=SECRET)

    move_alias(first, "champion", "promoted", "the first")
    headers, body = received.get(timeout=30)
    assert is_signed(headers, body, SECRET)
    assert not is_signed(headers, body, "another secret")
    assert not is_signed(headers, body.replace(b"champion", b"champiom"), SECRET)
    data = json.loads(body)["data"]
    assert (data["name"], data["alias"], data["version"]) == ("m", "champion", "1")

    tracking.kill()  # the secret is readable after a restart, with the same key
    tracking.start()
    move_alias(second, "champion", "promoted", "the second")
    headers, body = received.get(timeout=30)
    assert is_signed(headers, body, SECRET)
    assert json.loads(body)["data"]["version"] == "2"

    server.shutdown()
    server.server_close()
    start_s = time.monotonic()
    move_alias(third, "champion", "promoted", "the third")
    assert time.monotonic() - start_s < 10
    holder = aliased_version("m", "champion")
    assert holder is not None
    assert holder.version == "3"
