"""Free TCP ports for servers that are told their port on the command line."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.config.ray_local import LOOPBACK

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 12_000  # ports below the ephemeral range to choose from


def is_free(port: int) -> bool:
    """Return whether a server could listen on ``port`` now, on all interfaces: a server on any may be in the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set SO_REUSEADDR too; without it a port in TIME_WAIT, left by the server being replaced, looks taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(taken: Iterable[int] = ()) -> int:
    """Return a free port that is not in ``taken``.

    Ports below the kernel's ephemeral range come first: between this choice and the moment the server
    listens (seconds for MLflow) nobody's outgoing connection or ``bind(0)`` can be given such a port.
    """
    taken = set(taken)
    first = _first_ephemeral_port()
    for _ in range(64):
        port = random.randrange(max(1024, first - _WIDTH), first)
        if port not in taken and is_free(port):
            return port
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
        if port not in taken:
            return port


def choose_ports(names: Iterable[str], previous: Mapping[str, int], taken: Iterable[int] = ()) -> dict[str, int]:
    """Return a port for each name: the previous one where it is free, so that a repaired server keeps its address."""
    ports: dict[str, int] = {}
    for name in names:
        used = {*taken, *ports.values()}
        old = previous.get(name)
        ports[name] = old if old is not None and old not in used and is_free(old) else free_port(used)
    return ports


def _first_ephemeral_port() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768  # Linux's default
    return first if first > 2_048 else 32_768
