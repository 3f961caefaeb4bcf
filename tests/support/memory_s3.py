"""The part of S3 that ``pipeline.storage`` uses, in memory and without signatures, for tests that need no real
server.
"""

from __future__ import annotations

import hashlib
import http.server
import re
import sys
import threading
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class MemoryS3:
    """A server on 127.0.0.1 with one bucket, ``bucket``; ``objects`` is what it holds.

    Args:
        page: most entries of a page of a listing.
    """

    def __init__(self, page: int = 2) -> None:
        self.page = page
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.completed = 0
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # many clients connect at once; one that is dropped tries again only after a second

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may go away
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    store: MemoryS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # head and body are two writes: the second would wait 40 ms for the first one's acknowledgement
    )

    def _split(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        self.store.requests.append(f"{self.command} {self.path}")
        return (
            unquote(bucket),
            unquote(key),
            {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
        )

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._send(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())

    def do_GET(self) -> None:
        bucket, key, query = self._split()
        if bucket != "bucket":
            return self._error(404, "NoSuchBucket")
        if not key:
            return self._list(query)
        data = self.store.objects.get(key)
        if data is None:
            return self._error(404, "NoSuchKey")
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2])
            if first >= len(data):
                return self._error(416, "InvalidRange")
            return self._send(206, data[first : last + 1])
        return self._send(200, data)

    def do_HEAD(self) -> None:
        _, key, _ = self._split()
        data = self.store.objects.get(key)
        if data is None:
            return self._send(404)
        return self._send(200, data)

    def _list(self, query: dict[str, str]) -> None:
        keys = sorted(
            key
            for key in self.store.objects
            if key.startswith(query.get("prefix", "")) and key > query.get("continuation-token", "")
        )
        page, more = keys[: self.store.page], len(keys) > self.store.page
        items = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{len(self.store.objects[k])}</Size>"
            f"<ETag>{hashlib.md5(self.store.objects[k]).hexdigest()}</ETag></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._send(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{items}{token}"
            "</ListBucketResult>".encode(),
        )

    def do_PUT(self) -> None:
        _, key, query = self._split()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) < int(self.headers["Content-Length"]):
            return None  # the client went away: nothing is stored
        if "uploadId" in query:
            if query["uploadId"] not in self.store.uploads:
                return self._error(404, "NoSuchUpload")
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.store.objects[key] = body
        return self._send(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_POST(self) -> None:
        _, key, query = self._split()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            name = f"u{len(self.store.requests)}"
            self.store.uploads[name] = {}
            return self._send(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        parts = self.store.uploads.pop(query["uploadId"], None)
        if parts is None:
            return self._error(404, "NoSuchUpload")
        self.store.completed += 1
        self.store.objects[key] = b"".join(parts[number] for number in sorted(parts))
        return self._send(200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        _, key, query = self._split()
        if "uploadId" in query:
            self.store.uploads.pop(query["uploadId"], None)
        else:
            self.store.objects.pop(key, None)
        self._send(204)

    def log_message(self, *args: object) -> None:
        pass
