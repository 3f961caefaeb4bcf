"""HTTP/1.1 heads and bodies on a socket, as a proxy passes them on."""

from __future__ import annotations

import contextlib
import socket
import struct

PIECE = 1 << 16


class Reader:
    """Buffered reading of heads and bodies from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer = connection, b""

    def head(self) -> bytes:
        """Bytes up to and with the empty line; empty where the connection ended."""
        while b"\r\n\r\n" not in self._buffer:
            piece = self._connection.recv(PIECE)
            if not piece:
                return b""
            self._buffer += piece
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def body(self, length: int | None, forward) -> None:
        """Hand over ``length`` bytes, or all up to the end of the connection."""
        left = float("inf") if length is None else length
        while left > 0:
            piece = self._buffer or self._connection.recv(PIECE)
            self._buffer = b""
            if not piece:
                if length is None:
                    return
                raise ConnectionResetError("the other side ended in mid-body")
            if len(piece) > left:
                piece, self._buffer = piece[: int(left)], piece[int(left) :]
            left -= len(piece)
            forward(piece)


def parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    return first, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def for_upstream(head: bytes) -> bytes:
    """One connection a request, and no 100 Continue: the proxy has said it. Neither header is signed."""
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n"


def without_hop_headers(head: bytes, *, keep: bool) -> bytes:
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, *([] if keep else [b"Connection: close"])]) + b"\r\n\r\n"


def reset(connection: socket.socket) -> None:
    """Close with RST in place of FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # close() alone would leave a thread that is blocked in recv() asleep.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
