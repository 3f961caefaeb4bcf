"""A proxy in front of an S3 server (or any HTTP/1.1 server) that does what bad networks and busy servers do, on
purpose.

    with FaultProxy("http://127.0.0.1:9000", Faults(slow_down=0.1, cut_answer=0.05), seed=3) as proxy:
        ... use proxy.endpoint in place of the server's ...
        proxy.faults = Faults()              # from now on: none
        proxy.script.extend(["slow_down", "cut_answer", None])   # the next three requests, whatever the shares say
        proxy.down()                         # connections are refused; proxy.up() takes them again, at the same port
        proxy.counts                         # Counter of what it did: "requests", and one entry a fault

Which request gets which fault is drawn from (seed, number of the request). With several clients at once their order is
not fixed, so a seed fixes how many faults come and of which kind, not whom they meet.

Requests pass as they are, the Host header included: S3 signatures cover it, so a client signs for the proxy's address
and a server that checks signatures against the header it gets (the local gateway does) accepts it. Requests whose body
is sent chunked are refused with 501; S3 clients announce a length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from typing import Self
from urllib.parse import urlsplit

from tests.support.http_wire import Reader, for_upstream, parse, reset, without_hop_headers

_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

_WORDS = b"<?xml version='1.0'?><Error><Code>%b</Code><Message>on purpose</Message></Error>"
_REFUSALS = {
    "denied": (b"403 Forbidden", b"application/xml", _WORDS % b"AccessDenied"),
    "expired": (b"400 Bad Request", b"application/xml", _WORDS % b"ExpiredToken"),
    "slow_down": (b"503 Slow Down", b"application/xml", _SLOW_DOWN),
    "bad_request": (b"400 Bad Request", b"text/plain", b"refused on purpose"),
    "server_error": (b"500 Internal Server Error", b"text/plain", b"failed on purpose"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """Shares of requests, each 0..1, their sum at most 1; the rest passes."""

    reset: float = 0.0
    """The connection is reset when the request has arrived, before the server hears of it."""
    slow_down: float = 0.0
    """Answered 503 SlowDown; the server never hears of it."""
    denied: float = 0.0
    """Answered 403 AccessDenied, as for a bucket that may only be read; the server never hears of it."""
    expired: float = 0.0
    """Answered 400 ExpiredToken; the server never hears of it."""
    bad_request: float = 0.0
    """Answered 400; the server never hears of it."""
    server_error: float = 0.0
    """Answered 500; the server never hears of it."""
    cut_upload: float = 0.0
    """The server gets part of the request's body, then both connections are reset. Requests without a body are
    reset.
    """
    cut_answer: float = 0.0
    """The client gets part of the answer's body, then the connection closes. Answers without a body are lost."""
    lose_answer: float = 0.0
    """The server does what was asked, and the client never hears of it."""
    stall: float = 0.0
    """Nothing happens for ``stall_s``; then the connection is reset."""
    delay: float = 0.0
    """Passed on after a time drawn from ``delay_s``."""
    stall_s: float = 3600.0
    delay_s: tuple[float, float] = (0.5, 2.0)
    bytes_per_s: float = 0.0
    """Speed of answers' bodies, for every request; 0: as fast as they come."""
    upload_bytes_per_s: float = 0.0
    """Speed of all requests' bodies together; 0: as fast as they come."""
    methods: frozenset[str] = frozenset()
    """Faults meet these methods alone; empty: all."""
    path: str = ""
    """Faults meet requests whose path and query match this pattern (re.search); empty: all."""

    KINDS = ("reset", *_REFUSALS, "cut_upload", "cut_answer", "lose_answer", "stall", "delay")

    def draw(self, chance: float) -> str | None:
        """The fault that a uniform number in [0, 1) stands for."""
        for kind in self.KINDS:
            chance -= getattr(self, kind)
            if chance < 0:
                return kind
        return None


class FaultProxy:
    """See the module. Threads are daemons; ``close`` ends every connection."""

    def __init__(self, upstream: str, faults: Faults | None = None, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults, self._seed = faults or Faults(), seed
        self.script: deque[str | None] = deque()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._line_free_s = 0.0
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self._closed.set()
        self.down()

    def down(self) -> None:
        """Refuse connections and reset those that are open, as a server that was killed."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        with self._lock:
            open_now = list(self._open)
        for connection in open_now:
            reset(connection)

    def up(self) -> None:
        """Listen again, at the same port."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)  # sets SO_REUSEADDR
        threading.Thread(target=self._accept, args=(listener,), name="fault-proxy", daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.counts["connections"] += 1
            threading.Thread(target=self._serve, args=(client,), name="fault-proxy-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = Reader(client)
            while self._one_request(client, reader):
                pass
        except OSError:
            reset(client)  # either side went away: the other hears of it
        finally:
            with self._lock:
                self._open.discard(client)
            with contextlib.suppress(OSError):
                client.close()

    def _next_fault(self, method: str, path: str) -> str | None:
        faults = self.faults
        with self._lock:
            number = self.counts["requests"]
            self.counts["requests"] += 1
            meets = (not faults.methods or method in faults.methods) and re.search(faults.path, path) is not None
            if not meets:
                return None
            fault = (
                self.script.popleft() if self.script else faults.draw(random.Random(f"{self._seed} {number}").random())
            )
            if fault is not None:
                self.counts[fault] += 1
            return fault

    def _one_request(self, client: socket.socket, reader: Reader) -> bool:
        """Serve one request; whether the connection may carry another."""
        head = reader.head()
        if not head:
            return False
        line, headers = parse(head)
        method, path = line.split(" ")[:2]
        length = int(headers.get("content-length", 0))
        if "transfer-encoding" in headers:
            client.sendall(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        fault = self._next_fault(method, path)
        chance = random.Random(f"{self._seed} {self.counts['requests']} where")
        if headers.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == "delay":
            self._closed.wait(chance.uniform(*self.faults.delay_s))
        elif fault == "stall":
            self._closed.wait(self.faults.stall_s)
            raise ConnectionResetError("stalled long enough")
        elif fault == "reset" or (fault == "cut_upload" and not length):
            raise ConnectionResetError("on purpose")
        elif fault in _REFUSALS:
            reader.body(length, lambda piece: None)
            status, kind, body = _REFUSALS[fault]
            client.sendall(
                b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (status, kind, len(body))
                + (b"" if method == "HEAD" else body)
            )
            return True
        with socket.create_connection(self._upstream, timeout=120) as server:
            server.sendall(for_upstream(head))
            if fault == "cut_upload":
                reader.body(int(length * chance.uniform(0, 0.95)), server.sendall)
                reset(server)
                raise ConnectionResetError("on purpose")
            reader.body(length, functools.partial(self._upload, server))
            return self._answer(client, Reader(server), method, fault, chance)

    def _upload(self, server: socket.socket, piece: bytes) -> None:
        if speed := self.faults.upload_bytes_per_s:
            with self._lock:  # the line is everybody's: each piece takes its time after those before it
                start_s = max(self._line_free_s, time.monotonic())
                until_s = self._line_free_s = start_s + len(piece) / speed
            self._closed.wait(max(0.0, until_s - time.monotonic()))
        server.sendall(piece)

    def _answer(
        self, client: socket.socket, reader: Reader, method: str, fault: str | None, chance: random.Random
    ) -> bool:
        head = reader.head()
        while head.startswith(b"HTTP/1.1 1"):  # 100 Continue
            head = reader.head()
        if not head or fault == "lose_answer":
            raise ConnectionResetError("no answer, or lost on purpose")
        line, headers = parse(head)
        has_body = method != "HEAD" and line.split(" ")[1] not in ("204", "304")
        length = int(headers["content-length"]) if "content-length" in headers else None
        sent, allowed = 0, None
        if fault == "cut_answer":
            if not has_body or length == 0:
                raise ConnectionResetError("on purpose")
            allowed = int((length or 2000) * chance.uniform(0, 0.95))
        start_s = time.monotonic()

        def forward(piece: bytes) -> None:
            nonlocal sent
            part = piece if allowed is None else piece[: max(0, allowed - sent)]
            step = len(part) if not self.faults.bytes_per_s else max(1, int(self.faults.bytes_per_s / 20))
            for offset in range(0, len(part), step or 1):
                client.sendall(part[offset : offset + step])
                sent += len(part[offset : offset + step])
                if self.faults.bytes_per_s:
                    self._closed.wait(max(0.0, start_s + sent / self.faults.bytes_per_s - time.monotonic()))
            if allowed is not None and sent >= allowed:
                raise _EnoughError

        client.sendall(without_hop_headers(head, keep=length is not None or not has_body))
        try:
            if has_body:
                reader.body(length, forward)
        except _EnoughError:
            return False  # an orderly close in mid-body: the client sees too few bytes
        return length is not None or not has_body


class _EnoughError(Exception):
    """The share of the body that was to be sent has been sent."""
